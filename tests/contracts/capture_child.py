"""Captures a disk as `demo:latest`, to be killed: `python -m … URL TOKEN DISK`.

A line on stdout says that the work begins.
"""

import sys
from pathlib import Path

from agent.store.registry import RegistryClient
from agent.stream.chunks import VolumeSource
from agent.units import Extent
from tests.contracts.stream_builders import BASE, capture, make_volume


def main() -> None:
    url, token, disk = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    size = disk.stat().st_size - BASE
    source = VolumeSource(make_volume(size), disk, BASE, (Extent(0, size),), serial="SOURCE-1")
    client = RegistryClient(url, "demo", token)
    print("begins", flush=True)
    capture(client, source)
    client.close()


if __name__ == "__main__":
    main()
