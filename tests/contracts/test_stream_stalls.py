"""A server that begins well, then sends nothing, or a byte a second: what came is not asked for
again."""

import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from agent.store.body import Limits
from agent.store.template import open_template
from agent.stream.restore import restore_volume
from tests.contracts.fake_registry import Handler
from tests.contracts.seeds import draw, tried
from tests.contracts.stream_builders import BASE, make_client
from tests.contracts.stream_world import World
from tests.contracts.test_stream_faults import begin, first, is_pack_read
from tests.contracts.test_stream_faults import world as world


def hangs_up(handler: Handler, within_s: float) -> bool:
    """Return whether the client has had enough before that time is over."""
    handler.connection.settimeout(within_s)
    try:
        said: bytes = handler.connection.recv(1)
    except TimeoutError:
        return False
    except OSError:
        return True
    return said == b""


def be_silent(handler: Handler, _at: int) -> int:
    """Send nothing until the client has had enough; return how many bytes that were."""
    assert hangs_up(handler, 60)
    handler.close_connection = True
    return 0


def crawl(handler: Handler, at: int) -> int:
    """Send a byte a second until the client has had enough; return how many."""
    data, _, _ = handler.ranged()
    sent = 0
    with suppress(OSError):
        while sent < 60 and not hangs_up(handler, 1 if sent else 0.01):
            handler.wfile.write(data[at + sent : at + sent + 1])
            handler.wfile.flush()
            sent += 1
    handler.close_connection = True
    return sent


def test_a_byte_a_second_is_no_transfer(world: World) -> None:
    """Each byte comes in time; all together they are too slow. Another connection does better."""
    sent: list[int] = []
    world.registry.lie = first(1, lambda handler: sent.append(crawl(handler, begin(handler, 0))))
    client = make_client(world.url, limits=Limits(read_s=20, window_s=1.5))
    template = open_template(client, world.template.digest)
    restored = restore_volume(template, "root", world.target, BASE, lanes=1)
    client.close()
    eventually(lambda: sent)
    assert 0 < sent[0] < 30
    assert world.target_is_right()
    assert restored.bytes_fetched == sum(pack.size for pack in template.manifest.packs)
    tried(1, "transfers of a byte a second")


STALLS = {
    "nothing": (be_silent, Limits(read_s=1, window_s=20)),
    "a byte a second": (crawl, Limits(read_s=20, window_s=1.5)),
}


@pytest.mark.parametrize("name", STALLS)
def test_what_came_before_a_stall_is_not_asked_for_again(world: World, name: str) -> None:
    """A chunk or more has come, and mostly a part of the next: then nothing, or next to nothing."""
    stall, limits = STALLS[name]
    dice = draw("stall", name)
    left = [True, False]
    """Of each stall that is still to come: whether at a border of chunks."""
    sent: list[int] = []
    goes_on: list[tuple[str, int]] = []
    """Where the next read must begin, after a stall."""
    wrong: list[str] = []
    ends: dict[str, list[int]] = {}
    packs = world.template.blobs["root"].packs
    for entry in world.template.entries("root")[1]:
        if entry.pack >= 0:
            ends.setdefault(packs[entry.pack].digest, []).append(entry.offset + entry.stored_bytes)

    def lie(handler: Handler) -> bool:
        if not is_pack_read(handler):
            return False
        _, start, last = handler.ranged()
        pack = handler.path.rpartition("/")[2]
        if goes_on and goes_on.pop() != (pack, start):
            wrong.append(f"{pack} from {start}")
        whole = [end for end in ends[pack] if start < end <= last + 1]
        if not left or len(whole) < 2:
            return False
        number = dice.randrange(1, len(whole))
        border, following = whole[number - 1], whole[number]
        part = 0 if left.pop(0) else dice.randrange(max(following - border - 100, 1))
        goes_on.append((pack, border))
        sent.append(stall(handler, begin(handler, border + part - start)))
        return True

    world.registry.lie = lie
    client = make_client(world.url, limits=limits)
    template = open_template(client, world.template.digest)
    restored = restore_volume(template, "root", world.target, BASE, lanes=1)
    client.close()
    assert not left
    assert wrong == [], "it goes on behind the last whole chunk"
    eventually(lambda: len(sent) == 2)
    assert max(sent) < 30
    assert world.target_is_right()
    assert restored.bytes_fetched == sum(pack.size for pack in template.manifest.packs)
    tried(2, "stalls after whole chunks")


def eventually(holds: Callable[[], object]) -> None:
    """Wait for what another thread is about to do."""
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)
