"""Restores each of many templates in a process of its own, and says how long it took and how
much memory: `python -m tests.contracts.hostile_child URL FOLDER`, digests on stdin, JSON lines out.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

from agent.errors import AgentError, reasons
from agent.store.template import check_complete, open_template
from agent.stream.restore import restore_volume
from agent.units import MiB
from tests.bench.peaks import peak_bytes
from tests.contracts.stream_builders import BASE, make_client


def restore(url: str, target: Path, digest: str) -> dict[str, object]:
    began = time.monotonic()
    answer: dict[str, object] = {"digest": digest, "kind": "none", "message": ""}
    client = make_client(url)
    try:
        template = open_template(client, digest)
        check_complete(template)
        restore_volume(template, "root", target, BASE, lanes=1)
    except AgentError as error:
        answer |= {"kind": type(error).__name__, "message": " | ".join(reasons(error))}
    except BaseException:
        answer |= {"kind": "traceback", "message": traceback.format_exc()}
    client.close()
    return answer | {"seconds": time.monotonic() - began, "peak_mib": peak_bytes() / MiB}


def main() -> None:
    url, folder = sys.argv[1], Path(sys.argv[2])
    for number, line in enumerate(sys.stdin):
        target = folder / f"{number}.img"
        target.touch()
        os.truncate(target, 16 * MiB)
        child = os.fork()  # a fork begins with a peak of its own
        if child == 0:
            print(json.dumps(restore(url, target, line.strip())), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
