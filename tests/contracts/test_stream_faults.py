"""A server that cuts, stalls and lies: the stream goes on, or fails before it writes nonsense."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.errors import AgentError, ServerError
from agent.store.body import Limits
from agent.store.retry import Retry, Transient
from agent.store.template import Template, open_template
from agent.stream.chunks import VolumeSource
from agent.stream.restore import restore_volume
from agent.units import MiB
from tests.contracts.fake_registry import FakeRegistry, Handler
from tests.contracts.seeds import SEED
from tests.contracts.stream_builders import (
    BASE,
    capture,
    make_client,
    make_source,
    make_target,
    mixed_bytes,
)

SIZE = 41 * MiB
DATA = mixed_bytes(SIZE, seed=5)
OLD = b"\xa5"


@dataclass
class World:
    """A template in a registry that can be told to lie, and a target full of old bytes."""

    registry: FakeRegistry
    url: str
    source: VolumeSource
    template: Template
    target: Path

    def restore(self, *, lanes: int = 2) -> None:
        restore_volume(self.template, "root", self.target, BASE, serial="TARGET-1", lanes=lanes)

    def target_is_right(self) -> bool:
        found = self.target.read_bytes()
        edge = OLD * BASE
        return found[BASE : BASE + SIZE] == DATA and found[:BASE] == found[BASE + SIZE :] == edge

    def nothing_wrong_is_written(self) -> bool:
        """Whether each byte of the target is the old one or the right one."""
        found = self.target.read_bytes()
        size = 512
        for at in range(0, SIZE, size):
            here = found[BASE + at : BASE + at + size]
            if here not in (DATA[at : at + size], OLD * size):
                return False
        return found[:BASE] == found[BASE + SIZE :] == OLD * BASE


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    print(f"METALCAST_SEED={SEED}")
    registry = FakeRegistry()
    with registry.serving() as url:
        client = make_client(url)
        source = make_source(tmp_path, DATA)
        template = open_template(client, capture(client, source, pack_bytes=24 * MiB).digest)
        registry.asked.clear()
        yield World(registry, url, source, template, make_target(tmp_path, SIZE))
        client.close()


def is_pack_read(handler: Handler) -> bool:
    return handler.command == "GET" and "Range" in handler.headers


def first(times: int, lie: Callable[[Handler], None]) -> Callable[[Handler], bool]:
    """Return a lie for the first `times` reads of a pack."""
    left = [times]
    lock = threading.Lock()

    def answer(handler: Handler) -> bool:
        if not is_pack_read(handler):
            return False
        with lock:
            left[0] -= 1
            if left[0] < 0:
                return False
        lie(handler)
        return True

    return answer


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_thirty_cuts_at_random_places_cost_only_what_was_on_its_way(
    world: World, reset: bool
) -> None:
    draw = random.Random(SEED)
    stored = sum(pack.size for pack in world.template.manifest.packs)
    cuts = [draw.randrange(0, 2 * MiB) for _ in range(30)]
    remaining = iter(cuts)
    lock = threading.Lock()

    def lie(handler: Handler) -> bool:
        if not is_pack_read(handler):
            return False
        with lock:
            after = next(remaining, None)
        if after is None:
            return False
        handler.cut(after, reset=reset)
        return True

    world.registry.lie = lie
    patient = Retry(attempts=40, first_s=0.001, longest_s=0.01)
    client = make_client(world.url, retry=patient)
    template = open_template(client, world.template.digest)
    restored = restore_volume(template, "root", world.target, BASE, lanes=3)
    client.close()
    assert next(remaining, None) is None, "every cut was made"
    assert world.target_is_right()
    assert restored.bytes_fetched == stored, "no chunk was taken twice"


def stall(handler: Handler) -> None:
    data, start, last = handler.ranged()
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{last}/{len(data)}")
    handler.send_header("Content-Length", str(last - start + 1))
    handler.end_headers()
    handler.wfile.flush()
    time.sleep(1.5)
    handler.close_connection = True


def trickle(handler: Handler) -> None:
    data, start, last = handler.ranged()
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{last}/{len(data)}")
    handler.send_header("Content-Length", str(last - start + 1))
    handler.end_headers()
    try:
        for at in range(start, min(start + 300, last)):
            handler.wfile.write(data[at : at + 1])
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass  # the client has had enough
    handler.close_connection = True


def without_length(handler: Handler) -> None:
    """Answer as HTTP/1.0 did: the body ends when the connection does, here too soon."""
    data, start, last = handler.ranged()
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{last}/{len(data)}")
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(data[start : start + 1000])
    handler.close_connection = True


def say(status: int, **headers: str) -> Callable[[Handler], None]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.answer(status, b"because", named)


def whole_blob(handler: Handler) -> None:
    data, _, _ = handler.ranged()
    handler.answer(200, data)


def other_range(shift: int) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        data, start, last = handler.ranged()
        piece = data[start : last + 1]
        shifted = {"Content-Range": f"bytes {start + shift}-{last + shift}/{len(data)}"}
        handler.answer(206, piece, shifted)

    return answer


def shorter(handler: Handler) -> None:
    data, start, last = handler.ranged()
    whole = {"Content-Range": f"bytes {start}-{last}/{len(data)}"}
    handler.answer(206, data[start:last], whole)


def chunked_and_short(handler: Handler) -> None:
    data, start, last = handler.ranged()
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{last}/{len(data)}")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    piece = data[start : start + 1000]
    handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(piece), piece))


def encoded(handler: Handler) -> None:
    data, start, last = handler.ranged()
    headers = {
        "Content-Range": f"bytes {start}-{last}/{len(data)}",
        "Content-Encoding": "zstd",
    }
    handler.answer(206, data[start : last + 1], headers)


PASSING = {
    "a stall": stall,
    "a trickle": trickle,
    "503": say(503),
    "429": say(429, Retry_After="0"),
    "500": say(500),
    "a chunked body that ends early": chunked_and_short,
    "a body without a length that ends early": without_length,
    "no answer": lambda handler: handler.hang_up(reset=False),
    "a reset": lambda handler: handler.hang_up(reset=True),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_sat_out(world: World, name: str) -> None:
    world.registry.lie = first(2, PASSING[name])
    started = time.monotonic()
    world.restore()
    assert time.monotonic() - started < 8
    assert world.target_is_right()


LYING = {
    "ranges are ignored": (whole_blob, "ignores ranges"),
    "another range": (other_range(512), "asked for bytes .*, the answer is for"),
    "the range before": (other_range(-1), "asked for bytes .*, the answer is for"),
    "no Content-Range": (say(206), "asked for bytes .*, the answer is for ''"),
    "a shorter body": (shorter, "asked for .* bytes, the answer has"),
    "an encoding": (encoded, "answered with Content-Encoding: zstd"),
    "416": (say(416), "416 .*because"),
    "404": (say(404), "404 .*because"),
    "401": (say(401), "401 .*because"),
    "a second redirect": (say(307, Location="/v2/demo/blobs/there"), "redirects a second time"),
    "a redirect to a file": (say(307, Location="file:///etc/passwd"), "which is not followed"),
}


@pytest.mark.parametrize("name", LYING)
def test_a_lie_is_an_error_at_once_and_nothing_wrong_is_written(world: World, name: str) -> None:
    lie, message = LYING[name]
    world.registry.lie = first(10**6, lie)
    with pytest.raises(ServerError, match=message) as caught:
        world.restore()
    assert not isinstance(caught.value, Transient)
    assert world.url in str(caught.value)
    assert world.nothing_wrong_is_written()


def test_our_token_goes_to_nobody_else(world: World) -> None:
    elsewhere = FakeRegistry()
    with elsewhere.serving() as other:
        elsewhere.blobs["x"] = b"not what was asked for"
        world.registry.lie = first(1, say(307, Location=f"{other}/v2/demo/blobs/x"))
        client = make_client(world.url, "secret")
        template = open_template(client, world.template.digest)
        with pytest.raises(ServerError, match="416"):
            restore_volume(template, "root", world.target, BASE)
        client.close()
    assert elsewhere.asked
    assert all("Authorization" not in headers for _, _, headers in elsewhere.asked)


def test_an_upload_that_points_elsewhere_stays_here(world: World) -> None:
    def lie(handler: Handler) -> bool:
        if handler.command != "POST":
            return False
        handler.registry.uploads["mine"] = bytearray()
        headers = {"Location": "http://192.0.2.1/v2/demo/blobs/uploads/mine"}
        handler.answer(202, headers=headers)
        return True

    world.registry.lie = lie
    client = make_client(world.url, "secret")
    assert client.start_upload().location == f"{world.url}/v2/demo/blobs/uploads/mine"
    client.close()


def test_identity_is_what_is_asked_for(world: World) -> None:
    world.restore()
    assert world.registry.asked
    for _, _, headers in world.registry.asked:
        assert headers["Accept-Encoding"] == "identity"


def test_retry_after_is_waited_for(world: World) -> None:
    world.registry.lie = first(1, say(503, Retry_After="1"))
    started = time.monotonic()
    world.restore(lanes=1)
    assert time.monotonic() - started >= 1
    assert world.target_is_right()


def test_a_server_that_stays_away_is_named(world: World) -> None:
    world.registry.lie = first(10**6, lambda handler: handler.hang_up(reset=False))
    with pytest.raises(ServerError, match=world.url) as caught:
        world.restore()
    assert world.nothing_wrong_is_written()
    assert "RemoteDisconnected" in str(caught.value) or "closed" in str(caught.value)


def test_no_server_is_named_with_a_hint() -> None:
    client = make_client("http://127.0.0.1:1")
    with pytest.raises(
        ServerError, match="http://127.0.0.1:1/v2/demo.*Connection refused"
    ) as caught:
        client.manifest("latest")
    assert caught.value.hint


def test_a_stalled_server_does_not_hold_up_an_error(world: World) -> None:
    """One lane hangs on a silent server, another finds a lie: the restore ends soon."""

    def lie(handler: Handler) -> bool:
        if not is_pack_read(handler):
            return False
        if handler.headers["Range"].startswith("bytes=0-"):
            stall_long(handler)
        else:
            time.sleep(0.2)
            handler.answer(416)
        return True

    def stall_long(handler: Handler) -> None:
        data, start, last = handler.ranged()
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{last}/{len(data)}")
        handler.send_header("Content-Length", str(last - start + 1))
        handler.end_headers()
        handler.wfile.flush()
        time.sleep(8)

    world.registry.lie = lie
    client = make_client(world.url, limits=Limits(read_s=30))
    template = open_template(client, world.template.digest)
    started = time.monotonic()
    with pytest.raises(ServerError, match="416"):
        restore_volume(template, "root", world.target, BASE, lanes=2)
    assert time.monotonic() - started < 4
    client.close()


def test_what_the_report_raises_ends_the_restore(world: World) -> None:
    class Cancelled(Exception):
        pass

    def report(_happening: object) -> None:
        raise Cancelled

    world.registry.lie = first(10**6, stall)
    with pytest.raises(Cancelled):
        restore_volume(world.template, "root", world.target, BASE, report=report)
    assert world.nothing_wrong_is_written()


def upload_lie(world: World, lie: Callable[[Handler], bool]) -> None:
    """Capture again through `lie`; what is then in the registry must be whole."""
    world.registry.blobs.clear()
    world.registry.manifests.clear()
    world.registry.lie = lie
    client = make_client(world.url)
    captured = capture(client, world.source, pack_bytes=16 * MiB)
    world.registry.lie = None
    template = open_template(client, captured.digest)
    restore_volume(template, "root", world.target, BASE)
    client.close()
    assert world.target_is_right()


def each(method: str, every: int, act: Callable[[Handler], bool]) -> Callable[[Handler], bool]:
    count = [0]

    def lie(handler: Handler) -> bool:
        if handler.command != method:
            return False
        count[0] += 1
        return count[0] % every == 0 and act(handler)

    return lie


def test_a_piece_that_arrives_in_part_is_completed(world: World) -> None:
    def act(handler: Handler) -> bool:
        length = int(handler.headers["Content-Length"])
        part = handler.rfile.read(length // 3)
        upload = handler.registry.uploads[handler.path.rpartition("/")[2]]
        upload += part
        handler.hang_up(reset=True)
        return True

    upload_lie(world, each("PATCH", 2, act))


def test_a_piece_whose_answer_is_lost_is_not_sent_twice(world: World) -> None:
    def act(handler: Handler) -> bool:
        data = handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.registry.uploads[handler.path.rpartition("/")[2]] += data
        handler.hang_up(reset=False)
        return True

    upload_lie(world, each("PATCH", 2, act))


def test_a_finish_whose_answer_is_lost_is_a_finish(world: World) -> None:
    def act(handler: Handler) -> bool:
        if "/manifests/" in handler.path:
            return False
        upload = handler.registry.uploads.pop(handler.path.rpartition("/")[2].partition("?")[0])
        digest = handler.path.partition("digest=")[2].replace("%3A", ":")
        handler.registry.blobs[digest] = bytes(upload)
        handler.hang_up(reset=False)
        return True

    upload_lie(world, each("PUT", 2, act))


def test_bytes_that_the_server_lost_are_made_again(world: World) -> None:
    """The server was killed and comes back with less than it had acknowledged."""

    def act(handler: Handler) -> bool:
        upload = handler.registry.uploads[handler.path.rpartition("/")[2]]
        if len(upload) == 0 or lost:
            return False
        del upload[len(upload) // 2 :]
        handler.hang_up(reset=False)
        lost.append(len(upload))
        return True

    lost: list[int] = []
    upload_lie(world, each("PATCH", 2, act))
    assert lost


def test_an_upload_that_the_server_forgot_is_made_again(world: World) -> None:
    def act(handler: Handler) -> bool:
        if lost:
            return False
        handler.registry.uploads.pop(handler.path.rpartition("/")[2])
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.answer(404)
        lost.append(1)
        return True

    lost: list[int] = []
    upload_lie(world, each("PATCH", 2, act))
    assert lost


def test_a_full_store_ends_the_capture_and_lists_nothing(world: World) -> None:
    def act(handler: Handler) -> bool:
        handler.answer(507)
        handler.close_connection = True
        return True

    world.registry.manifests.clear()
    world.registry.lie = each("PATCH", 1, act)
    client = make_client(world.url)
    with pytest.raises(AgentError, match="507") as caught:
        capture(client, world.source)
    client.close()
    assert "the store is full" in (caught.value.hint or "")
    assert world.registry.manifests == {}
    assert world.registry.uploads == {}
