"""A server that cuts, stalls and lies: the stream goes on, or fails before it writes nonsense."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.errors import ServerError
from agent.model.template import PACK_TYPE
from agent.store.body import Limits
from agent.store.retry import Retry, Transient
from agent.store.template import open_template
from agent.stream.restore import restore_volume
from agent.units import MiB
from tests.contracts.fake_registry import FakeRegistry, Handler
from tests.contracts.seeds import tried
from tests.contracts.stream_builders import BASE, make_client
from tests.contracts.stream_world import World, world_of

SIZE = 41 * MiB


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_of(tmp_path, SIZE, seed=5, pack_bytes=24 * MiB) as made:
        yield made


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


def begin(handler: Handler, whole: int) -> int:
    """Begin the right answer to a ranged read, `whole` bytes of it; return what comes next."""
    data, start, last = handler.ranged()
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{last}/{len(data)}")
    handler.send_header("Content-Length", str(last - start + 1))
    handler.end_headers()
    handler.wfile.write(data[start : start + whole])
    handler.wfile.flush()
    return start + whole


def stall(handler: Handler) -> None:
    begin(handler, 0)
    time.sleep(1.5)
    handler.close_connection = True


def trickle(handler: Handler) -> None:
    data, start, last = handler.ranged()
    begin(handler, 0)
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


def range_said(form: str) -> Callable[[Handler], None]:
    """Return a lie that sends the right bytes, and of them `form`: {a}, {b} and the {total}."""

    def answer(handler: Handler) -> None:
        data, start, last = handler.ranged()
        said = form.format(a=start, b=last, total=len(data), more=len(data) + 1)
        handler.answer(206, data[start : last + 1], {"Content-Range": said})

    return answer


def in_parts(handler: Handler) -> None:
    """Answer as to a request for several ranges, with the right one and another."""
    data, start, last = handler.ranged()
    body = b""
    for first, end in ((start, last), (0, 0)):
        body += b"--edge\r\nContent-Range: bytes %d-%d/%d\r\n\r\n" % (first, end, len(data))
        body += data[first : end + 1] + b"\r\n"
    kind = {"Content-Type": "multipart/byteranges; boundary=edge"}
    handler.answer(206, body + b"--edge--\r\n", kind)


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
    done = world.restore()
    assert time.monotonic() - started < 8
    assert world.target_is_right()
    layers = world.template.manifest.layers
    assert done.bytes_fetched == sum(one.size for one in layers if one.media_type == PACK_TYPE)
    tried(2, "answers that pass")


RANGES = {
    "a longer blob": "bytes {a}-{b}/{more}",
    "a blob that ends before the range": "bytes {a}-{b}/{b}",
    "a blob of nothing": "bytes {a}-{b}/0",
    "no total": "bytes {a}-{b}",
    "an empty total": "bytes {a}-{b}/",
    "a total below zero": "bytes {a}-{b}/-{total}",
    "no range": "bytes */{total}",
    "no end": "bytes {a}-/{total}",
    "no unit": "{a}-{b}/{total}",
    "another unit": "chunks {a}-{b}/{total}",
    "two ranges": "bytes {a}-{b},0-0/{total}",
    "the range twice": "bytes {a}-{b}/{total}, bytes {a}-{b}/{total}",
    "a range backwards": "bytes {b}-{a}/{total}",
}
"""Of the right bytes."""

LYING = {
    "ranges are ignored": (whole_blob, "ignores ranges"),
    "another range": (other_range(512), "asked for bytes .*, the answer is for"),
    "the range before": (other_range(-1), "asked for bytes .*, the answer is for"),
    "no Content-Range": (say(206), "asked for bytes .*, the answer is for ''"),
    "several parts": (in_parts, "asked for bytes .*, the answer is for ''"),
    **{
        name: (range_said(form), "asked for bytes .*, the answer is for")
        for name, form in RANGES.items()
    },
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
    assert world.wrong_chunks() == []
    tried(1, "lying answers")


def test_a_server_that_gives_a_chunk_at_a_time_is_good_enough(world: World) -> None:
    """Each chunk that arrives gives all attempts back: cut after cut, it goes on."""
    entries = [entry for entry in world.template.entries("root")[1] if entry.pack >= 0]
    sizes = {entry.offset: entry.stored_bytes for entry in entries if entry.pack == 0}
    first_pack = world.template.manifest.packs[0].digest
    cuts: list[int] = []

    def lie(handler: Handler) -> bool:
        if not is_pack_read(handler) or not handler.path.endswith(first_pack):
            return False
        _, start, last = handler.ranged()
        if start + sizes[start] > last:
            return False
        cuts.append(start)
        handler.cut(sizes[start] + 100, reset=False)
        return True

    world.registry.lie = lie
    client = make_client(world.url, retry=Retry(attempts=2, first_s=0.01))
    template = open_template(client, world.template.digest)
    restored = restore_volume(template, "root", world.target, BASE, lanes=1)
    client.close()
    assert len(cuts) >= 3
    assert world.target_is_right()
    assert restored.bytes_fetched == sum(pack.size for pack in template.manifest.packs)


def test_a_server_that_restarts_costs_what_was_on_its_way(world: World) -> None:
    """It hangs up on everyone and refuses connections for a while, twice, at the same port."""
    registry = FakeRegistry(blobs=world.registry.blobs, manifests=world.registry.manifests)
    is_down = threading.Event()
    threads: list[threading.Thread] = []
    reads: list[int] = []
    with ExitStack() as up:
        url = up.enter_context(registry.serving())
        port = urlsplit(url).port or 0

        def restart() -> None:
            up.close()
            time.sleep(0.3)
            is_down.clear()
            up.enter_context(registry.serving(port))

        def lie(handler: Handler) -> bool:
            if is_pack_read(handler) and not is_down.is_set():
                reads.append(1)
                if len(reads) in (1, 2):
                    is_down.set()
                    threads.append(threading.Thread(target=restart))
                    threads[-1].start()
            if not is_down.is_set():
                return False
            if is_pack_read(handler):
                handler.cut(1_000_000, reset=True)
            else:
                handler.hang_up(reset=True)
            return True

        registry.lie = lie
        client = make_client(url, retry=Retry(attempts=30, first_s=0.05, longest_s=0.1))
        template = open_template(client, world.template.digest)
        restored = restore_volume(template, "root", world.target, BASE, lanes=2)
        for thread in threads:
            thread.join()
        client.close()
    assert len(threads) == 2
    assert world.target_is_right()
    assert restored.bytes_fetched == sum(pack.size for pack in template.manifest.packs)


def test_our_token_goes_to_nobody_else(world: World) -> None:
    elsewhere = FakeRegistry()
    with elsewhere.serving() as other:
        elsewhere.blobs["x"] = b"not what was asked for"
        world.registry.lie = first(1, say(307, Location=f"{other}/v2/demo/blobs/x"))
        client = make_client(world.url, "secret")
        template = open_template(client, world.template.digest)
        with pytest.raises(ServerError, match="asked for bytes 0-.*, the answer is for"):
            restore_volume(template, "root", world.target, BASE, lanes=1)
        client.close()
    assert elsewhere.asked
    assert all("Authorization" not in headers for _, _, headers in elsewhere.asked)


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
    assert world.wrong_chunks() == []
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
    assert world.wrong_chunks() == []
