"""A slow upload is used to compress harder; what is slow is named."""

import os
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.flows.deploy import TemplateSource
from agent.model.event import Happening, Progressed
from agent.model.job import Verify
from agent.model.template import CHUNK_BYTES
from agent.store.target import RegistryTarget
from agent.store.template import open_template
from agent.stream.capture import Captured, capture_template
from agent.stream.progress import slowest
from agent.stream.restore import restore_volume
from agent.system.command import Run
from agent.units import MiB
from tests.contracts.fake_registry import FakeRegistry, Handler
from tests.contracts.stream_builders import (
    BASE,
    make_client,
    make_config,
    make_source,
    make_target,
)
from tests.contracts.stream_world import world_of

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


def test_a_restore_that_waits_for_the_medium_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lanes together write longer than the one sync takes; each of them does not."""
    write, sync = os.pwritev, os.fsync

    def slow_write(fd: int, pieces: Sequence[memoryview], offset: int) -> int:
        time.sleep(0.2)
        return write(fd, pieces, offset)

    def slow_sync(fd: int) -> None:
        time.sleep(0.5)
        sync(fd)

    with world_of(tmp_path, CHUNKS * CHUNK_BYTES, seed=3) as world:
        monkeypatch.setattr(os, "pwritev", slow_write)
        monkeypatch.setattr(os, "fsync", slow_sync)
        done = restore_volume(world.template, "root", world.target, BASE, lanes=8)
    assert {"fetch", "verify", "decode", "write", "sync"} <= set(done.stage_seconds)
    assert done.stage_seconds["write"] > done.stage_seconds["sync"] >= 1
    assert slowest(done.seconds_each) == "sync"


def test_a_deployment_has_the_seconds_of_every_stage_as_it_goes_and_at_its_end(
    tmp_path: Path,
) -> None:
    told: list[Happening] = []
    with world_of(tmp_path, CHUNKS * CHUNK_BYTES, seed=3) as world:
        source = TemplateSource(Run(), world.template, {})
        source.restore("root", world.target, BASE, (), told.append)
        source.verify("root", world.target, BASE, Verify.FULL, (), told.append)
    stages = {"fetch", "verify", "decode", "write", "sync", "read_back", "compare"}
    assert stages <= set(source.seconds)
    assert all(source.seconds[stage] > 0 for stage in stages - {"sync"}), "that may take no time"
    assert source.seconds_each["read_back"] <= source.seconds["read_back"]
    last = {one.progress.what: one.progress for one in told if isinstance(one, Progressed)}
    assert {"fetch", "sync"} <= set(last["restore root"].stage_seconds)
    back = last["read back root"]
    assert set(back.stage_seconds) == {"read_back", "compare"}
    assert back.bottleneck in back.stage_seconds


@pytest.mark.parametrize("chunks", [1, 3, 45])
def test_a_sample_is_read_back_to_a_hundred_percent_and_no_further(
    tmp_path: Path, chunks: int
) -> None:
    told: list[Happening] = []
    with world_of(tmp_path, chunks * CHUNK_BYTES, seed=3) as world:
        restore_volume(world.template, "root", world.target, BASE)
        source = TemplateSource(Run(), world.template, {})
        source.verify("root", world.target, BASE, Verify.SAMPLE, (), told.append)
    shown = [one.progress for one in told if isinstance(one, Progressed)]
    assert shown[-1].done_bytes == shown[-1].total_bytes == source.read_back_bytes
    assert all(one.done_bytes <= one.total_bytes for one in shown)
    assert shown[0].total_bytes <= 2 * shown[-1].total_bytes
