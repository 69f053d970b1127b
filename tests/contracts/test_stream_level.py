"""A slow upload is used to compress harder."""

import sysconfig
import time
from pathlib import Path

from agent.model.template import CHUNK_BYTES
from agent.store.target import RegistryTarget
from agent.store.template import open_template
from agent.stream.capture import Captured, capture_template
from agent.stream.restore import restore_volume
from agent.units import MiB
from tests.contracts.fake_registry import FakeRegistry, Handler
from tests.contracts.stream_builders import (
    BASE,
    make_client,
    make_config,
    make_source,
    make_target,
)

CHUNKS = 16
PAUSE_S = 0.4


def real_text(size: int) -> bytes:
    """Return Python's own library: text that a higher level makes smaller."""
    pieces: list[bytes] = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        pieces.append(file.read_bytes())
        if sum(map(len, pieces)) >= size:
            break
    data = b"".join(pieces)
    return (data * (size // len(data) + 1))[:size]


def test_a_slow_upload_is_used_to_compress_harder(tmp_path: Path) -> None:
    def slowly(handler: Handler) -> bool:
        if handler.command == "PATCH":
            time.sleep(PAUSE_S)
        return False

    registry = FakeRegistry()
    with registry.serving() as url:
        client = make_client(url)
        data = real_text(CHUNKS * CHUNK_BYTES)
        source = make_source(tmp_path, data)

        def capture(level: int | None) -> Captured:
            return capture_template(
                RegistryTarget(client),
                make_config(source.volume),
                [source],
                tag="latest",
                level=level,
                lanes=1,
                pack_bytes=MiB // 2,
            )

        at_three = capture(3)
        registry.lie = slowly
        followed = capture(None)
        registry.lie = None
        assert followed.bottleneck == "upload"
        assert followed.stored_bytes < 0.98 * at_three.stored_bytes
        target = make_target(tmp_path, len(data))
        restore_volume(open_template(client, followed.digest), "root", target, BASE)
        assert target.read_bytes()[BASE : BASE + len(data)] == data
        client.close()
