"""What our registry promises beyond the protocol: kills, full disks, liars and strangers."""

import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from agent.model.template import MANIFEST_MAX_BYTES, MANIFEST_TYPE
from agent.units import MiB
from netboot.store import Store
from tests.conftest import cannot_run
from tests.contracts.registry_servers import Registry, digest_of, running, wait_for


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running("ours", tmp_path_factory.mktemp("ours"), idle_s=1.0) as found:
        yield found


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Registry]:
    """A registry that the test may break."""
    with running("ours", tmp_path) as found:
        yield found


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"f/{abs(hash(request.node.name)):x}"


def error_of(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, str(answer.json()["errors"][0]["code"])


def read_answer(connection: socket.socket) -> str:
    """Return the status line and the rest, as far as it comes, of a raw answer."""
    text = b""
    while piece := connection.recv(65536):
        text += piece
        if b"\r\n\r\n" in text:
            break
    return text.decode()


# the server dies


def test_a_kill_in_the_middle_leaves_an_upload_that_goes_on(own: Registry) -> None:
    data = os.urandom(6_000_000)
    location = own.begin("web")
    assert own.patch(location, data[:1_000_000], 0).status_code == 202
    connection = own.raw("PATCH", location, "Content-Length: 5000000\r\n")
    connection.sendall(data[1_000_000:4_500_000])
    wait_for(lambda: own.offset(location) >= 3_000_000)
    own.kill()
    connection.close()
    own.start()
    offset = own.offset(location)
    assert 3_000_000 <= offset <= 4_500_000
    assert not own.has("web", digest_of(data))
    assert own.patch(location, data[offset:], offset).status_code == 202
    assert own.finish(location, digest_of(data)).status_code == 201
    assert own.ask("GET", f"/v2/web/blobs/{digest_of(data)}").content == data


def test_a_kill_between_the_pieces_loses_nothing(own: Registry) -> None:
    data = os.urandom(1_000_000)
    location = own.begin("web")
    for at in range(0, len(data), 250_000):
        assert own.patch(location, data[at : at + 250_000], at).status_code == 202
        own.kill()
        own.start()
        assert own.offset(location) == at + 250_000
    assert own.finish(location, digest_of(data)).status_code == 201
    own.kill()
    own.start()
    assert own.ask("GET", f"/v2/web/blobs/{digest_of(data)}").content == data


def test_kills_at_random_leave_only_whole_blobs(own: Registry) -> None:
    seed = 20261123
    chance = random.Random(seed)
    acknowledged: set[str] = set()

    def push(stop: threading.Event) -> None:
        while not stop.is_set():
            data = chance.randbytes(chance.randrange(1, 400_000))
            try:
                acknowledged.add(own.push("web", data))
            except (requests.RequestException, OSError):
                return

    for _ in range(6):
        stop = threading.Event()
        pusher = threading.Thread(target=push, args=(stop,))
        pusher.start()
        time.sleep(chance.uniform(0.05, 0.4))
        own.kill()
        stop.set()
        pusher.join()
        with_store = Store(own.data)
        damage = with_store.find_damage(deep=True)
        with_store.gc(grace_s=0, keep=["web"])
        held = {f"sha256:{path.name}" for path in own.data.glob("blobs/sha256/*/*")}
        known = set(with_store.catalog.contents())
        with_store.close()
        assert damage == (), f"seed {seed}"
        assert acknowledged <= known, f"seed {seed}"
        assert held == known, f"seed {seed}"
        own.start()
    assert acknowledged


# the disk is full


def test_a_declared_size_that_does_not_fit_is_refused_at_once(own: Registry) -> None:
    kept = own.patch(own.begin("other"), b"a" * 100_000, 0).headers["Location"]
    own.free_file.write_text(str(4 * MiB))
    location = own.begin("web")
    answer = own.patch(location, bytes(3 * MiB + 1), 0)
    assert error_of(answer) == (507, "DENIED")
    assert "the store is full: 3.0 MiB asked for, 2.9 MiB to give" in answer.text
    assert own.offset(location) == 0
    assert own.patch(location, bytes(2 * MiB), 0).status_code == 202
    assert own.finish(kept, digest_of(b"a" * 100_000)).status_code == 201


def test_two_writers_are_not_promised_the_same_space(own: Registry) -> None:
    own.free_file.write_text(str(4 * MiB))
    first = own.begin("web")
    connection = own.raw("PATCH", first, f"Content-Length: {2 * MiB}\r\n")
    connection.sendall(b"x")
    second = own.begin("web")
    wait_for(lambda: own.patch(second, bytes(2 * MiB), 0).status_code == 507)
    connection.sendall(b"x" * (2 * MiB - 1))
    assert " 202 " in read_answer(connection)


def test_a_disk_that_fills_up_takes_only_the_upload_that_filled_it(own: Registry) -> None:
    kept = own.patch(own.begin("other"), b"a" * 100_000, 0).headers["Location"]
    own.free_file.write_text(str(3 * MiB))
    location = own.begin("web")
    pieces = (bytes(MiB) for _ in range(8))
    answer = own.ask("PATCH", location, data=pieces)  # chunked: nobody said how much
    assert error_of(answer) == (507, "DENIED")
    assert own.ask("GET", location).status_code == 404
    assert len(list((own.data / "uploads").iterdir())) == 1
    assert own.finish(kept, digest_of(b"a" * 100_000)).status_code == 201


@pytest.mark.root
def test_a_real_disk_that_runs_full(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        cannot_run("mounting a tmpfs needs root")
    (tmp_path / "data").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", tmp_path / "data"],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        cannot_run(f"no tmpfs here: {mounted.stderr!r}")
    try:
        with running("ours", tmp_path) as own:
            own.free_file.write_text(str(10**12))  # the check is deceived: only ENOSPC is left
            kept = own.patch(own.begin("other"), b"a" * 100_000, 0).headers["Location"]
            location = own.begin("web")
            answer = own.patch(location, os.urandom(20 * MiB), 0)
            assert error_of(answer) == (507, "DENIED")
            assert own.ask("GET", location).status_code == 404
            assert own.finish(kept, digest_of(b"a" * 100_000)).status_code == 201
            own.push("web", os.urandom(8 * MiB))
    finally:
        subprocess.run(["umount", tmp_path / "data"], check=True)


# clients that lie, stall or never end


def test_a_body_shorter_than_announced_is_no_upload(registry: Registry, name: str) -> None:
    location = registry.begin(name)
    connection = registry.raw(
        "PUT", f"{location}?digest={digest_of(b'abc')}", "Content-Length: 9\r\n"
    )
    connection.sendall(b"abc")
    connection.shutdown(socket.SHUT_WR)
    assert " 201 " not in read_answer(connection)
    assert not registry.has(name, digest_of(b"abc"))
    offset = registry.offset(location)
    assert offset in (0, 3)  # what was not read yet when the end came is not counted
    assert registry.finish(location, digest_of(b"abc"), b"abc"[offset:]).status_code == 201


def test_an_endless_body_is_stopped(registry: Registry, name: str) -> None:
    location = registry.begin(name)

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(MiB)

    try:
        answer = registry.ask("PATCH", location, data=endless())
        assert error_of(answer) == (413, "SIZE_INVALID")
    except requests.ConnectionError:
        pass  # the connection was closed on a client that went on sending
    assert registry.ask("GET", location).status_code == 404


def test_a_size_above_the_limit_is_refused_before_a_byte(registry: Registry, name: str) -> None:
    location = registry.begin(name)
    connection = registry.raw("PATCH", location, f"Content-Length: {2**50}\r\n")
    assert " 413 " in read_answer(connection)
    assert registry.offset(location) == 0


@pytest.mark.parametrize("trickles", [False, True])
def test_a_body_that_stalls_is_given_up_and_kept(
    registry: Registry, name: str, trickles: bool
) -> None:
    location = registry.begin(name)
    connection = registry.raw("PATCH", location, "Content-Length: 1000000\r\n")
    connection.sendall(b"x" * 5000)
    began = time.monotonic()
    answer = ""
    connection.settimeout(0.2)
    while not answer and time.monotonic() - began < 10:
        try:
            if trickles:
                connection.sendall(b"x")
            answer = read_answer(connection)
        except TimeoutError:
            continue
    assert " 408 " in answer
    assert registry.offset(location) >= 5000


def test_the_newer_connection_takes_the_upload_over(registry: Registry, name: str) -> None:
    data = os.urandom(3 * MiB)
    location = registry.begin(name)
    old = registry.raw("PATCH", location, f"Content-Length: {len(data)}\r\n")
    old.sendall(data[: 2 * MiB])
    wait_for(lambda: registry.offset(location) >= MiB)
    offset = registry.offset(location)
    answer = registry.patch(location, data[offset:], offset)
    if answer.status_code == 416:  # the old one wrote on in between
        offset = registry.offset(location)
        answer = registry.patch(location, data[offset:], offset)
    assert answer.status_code == 202
    old.sendall(data[2 * MiB :])
    assert " 409 " in read_answer(old)
    assert registry.finish(location, digest_of(data)).status_code == 201


def test_a_piece_whose_range_is_not_its_length_is_refused(registry: Registry, name: str) -> None:
    location = registry.begin(name)
    for header in ("0-99", "5-1", "x", "0-2, 4-5", "-1-1"):
        answer = registry.ask("PATCH", location, data=b"abc", headers={"Content-Range": header})
        assert answer.status_code == 400
    assert registry.offset(location) == 0


# strangers and strange names


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"])
def test_nobody_gets_in_without_a_password(registry: Registry, method: str) -> None:
    digest = registry.push("web", b"private")
    upload = registry.begin("web")
    for path in ("/v2/", "/v2/_catalog", f"/v2/web/blobs/{digest}", upload, "/v2/web/tags/list"):
        answer = requests.request(method, registry.url + path, timeout=10)
        assert answer.status_code in (401, 405)
        if answer.status_code == 401:
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="metalcast"'
    assert registry.has("web", digest)
    assert registry.offset(upload) == 0


def test_a_repository_is_for_those_who_may(registry: Registry) -> None:
    answer = registry.ask("POST", "/v2/forbidden/x/blobs/uploads/")
    assert error_of(answer) == (403, "DENIED")
    assert registry.ask("POST", "/v2/readonly/blobs/uploads/").status_code == 403
    digest = registry.push("web", b"mine")
    path = f"/v2/other/blobs/uploads/?mount={digest}&from=forbidden/x"
    assert registry.ask("POST", path).status_code == 202  # in the words of "it is not there"
    assert not registry.has("other", digest)


def test_an_upload_belongs_to_its_repository(registry: Registry) -> None:
    location = registry.begin("web").replace("/web/", "/other/")
    assert error_of(registry.patch(location, b"abc", 0)) == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/..%2f..%2fetc/blobs/uploads/",
        "/v2/%2e%2e/%2e%2e/blobs/uploads/",
        "/v2/web%00/blobs/uploads/",
        "/v2/web%0a/blobs/uploads/",
        "/v2/Web/blobs/uploads/",
        "/v2/-/blobs/uploads/",
        f"/v2/{'a' * 129}/blobs/uploads/",
        "/v2/a//b/blobs/uploads/",
    ],
)
def test_a_bad_name_is_refused(registry: Registry, path: str) -> None:
    before = sorted(registry.data.rglob("*"))
    status = int(read_answer(registry.raw("POST", path, "Content-Length: 0\r\n")).split()[1])
    assert status in (400, 404)
    assert sorted(registry.data.rglob("*")) == before


@pytest.mark.parametrize("reference", ["sha256:..%2f..", "sha512:00", "%2e%2e", "a%0a", "-x"])
def test_a_bad_reference_is_refused(registry: Registry, reference: str) -> None:
    for method in ("GET", "HEAD", "DELETE"):
        for kind in ("blobs", "manifests"):
            answer = registry.ask(method, f"/v2/web/{kind}/{reference}")
            assert answer.status_code in (400, 404)


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"{", MANIFEST_TYPE, 400),
        (b"[]", MANIFEST_TYPE, 400),
        (b"[" * 100_000, MANIFEST_TYPE, 400),
        (b'{"schemaVersion":2}', MANIFEST_TYPE, 400),
        (b'{"schemaVersion":2,"manifests":[]}', MANIFEST_TYPE, 400),
        (b'{"schemaVersion":1,"config":{},"layers":[]}', MANIFEST_TYPE, 400),
        (b"{}", "text/html", 400),
        (b" " * (MANIFEST_MAX_BYTES + 1), MANIFEST_TYPE, 413),
    ],
)
def test_a_bad_manifest_is_refused(
    registry: Registry, name: str, data: bytes, kind: str, status: int
) -> None:
    path, headers = f"/v2/{name}/manifests/v1", {"Content-Type": kind}
    assert registry.ask("PUT", path, data=data, headers=headers).status_code == status
    assert registry.ask("GET", path).status_code == 404


def test_several_ranges_are_refused_and_other_units_ignored(registry: Registry, name: str) -> None:
    path = f"/v2/{name}/blobs/{registry.push(name, b'0123456789')}"
    answer = registry.ask("GET", path, headers={"Range": "bytes=0-1,3-4"})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == "bytes */10"
    assert registry.ask("GET", path, headers={"Range": "lines=0-1"}).content == b"0123456789"


def test_a_needed_blob_stays_and_referrers_are_found(registry: Registry, name: str) -> None:
    digest = registry.push(name, b"{}")
    link = f'{{"mediaType":"x/config","digest":"{digest}","size":2}}'
    subject = f'{{"schemaVersion":2,"config":{link},"layers":[]}}'.encode()
    headers = {"Content-Type": MANIFEST_TYPE}
    registry.ask("PUT", f"/v2/{name}/manifests/v1", data=subject, headers=headers)
    found = registry.ask("GET", f"/v2/{name}/referrers/{digest_of(subject)}").json()
    assert found["manifests"] == []
    about = (
        f'{{"schemaVersion":2,"artifactType":"x/signature","config":{link},"layers":[],'
        f'"subject":{{"mediaType":"{MANIFEST_TYPE}","digest":"{digest_of(subject)}","size":1}}}}'
    ).encode()
    path = f"/v2/{name}/manifests/{digest_of(about)}"
    answer = registry.ask("PUT", path, data=about, headers=headers)
    assert answer.headers["OCI-Subject"] == digest_of(subject)
    for kind, count in (("", 1), ("?artifactType=x/signature", 1), ("?artifactType=x/y", 0)):
        listed = registry.ask("GET", f"/v2/{name}/referrers/{digest_of(subject)}{kind}").json()
        assert len(listed["manifests"]) == count
    assert error_of(registry.ask("DELETE", f"/v2/{name}/blobs/{digest}")) == (409, "DENIED")
    for data in (about, subject):
        path = f"/v2/{name}/manifests/{digest_of(data)}"
        assert registry.ask("DELETE", path).status_code == 202
    assert registry.ask("DELETE", f"/v2/{name}/blobs/{digest}").status_code == 202
    assert not registry.has(name, digest)
