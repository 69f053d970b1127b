"""A server that cuts, forgets and loses what is pushed: the template is whole, or not there."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.errors import AgentError
from agent.store.template import open_template
from agent.stream.restore import restore_volume
from agent.units import MiB
from tests.contracts.fake_registry import Handler
from tests.contracts.stream_builders import BASE, capture, make_client
from tests.contracts.stream_world import World, world_of

SIZE = 41 * MiB


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_of(tmp_path, SIZE, seed=5, pack_bytes=24 * MiB) as made:
        yield made


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


def test_a_capture_keeps_its_connections(world: World) -> None:
    """A new connection for each piece would begin slowly each time, and shake hands for TLS."""
    seen: set[object] = set()
    count = [0]

    def watch(handler: Handler) -> bool:
        seen.add(handler.client_address)
        count[0] += 1
        return False

    upload_lie(world, watch)
    assert count[0] > 10
    assert len(seen) <= 3  # the thread that uploads, and the one that waits for all
