"""One suite for every registry: what the stream asks of it, and how templates travel."""

import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from agent.errors import ServerError, SourceUnfit, TemplateError
from agent.model.job import Verify
from agent.model.template import PACK_TYPE, Descriptor
from agent.store.pack import BlobWriter
from agent.store.registry import RegistryClient
from agent.store.target import RegistryTarget
from agent.store.template import open_template
from agent.store.upload import ResumedUpload
from agent.stream.capture import capture_template
from agent.stream.restore import restore_volume, volume_bytes
from agent.stream.verify import verify_volume
from agent.units import Extent, KiB, MiB
from tests.contracts.registries import REGISTRIES
from tests.contracts.stream_builders import (
    BASE,
    capture,
    make_client,
    make_config,
    make_source,
    make_target,
    mixed_bytes,
)

DATA = random.Random(7).randbytes(3 * MiB + 17)


@pytest.fixture(params=sorted(REGISTRIES))
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RegistryClient]:
    with REGISTRIES[request.param](tmp_path) as url:
        found = make_client(url)
        yield found
        found.close()


def push(client: RegistryClient, data: bytes, piece_bytes: int = MiB) -> Descriptor:
    blob = BlobWriter(ResumedUpload(client), piece_bytes)
    for start in range(0, len(data), 300 * KiB):
        blob.write(data[start : start + 300 * KiB])
    return blob.finish(PACK_TYPE, {})


def test_a_blob_comes_back_as_it_went(client: RegistryClient) -> None:
    blob = push(client, DATA)
    assert blob.digest == f"sha256:{sha256(DATA).hexdigest()}"
    assert client.blob(blob, 4 * MiB) == DATA
    assert client.has_blob(blob.digest)
    assert not client.has_blob("sha256:" + "0" * 64)


def test_a_blob_can_be_pushed_twice(client: RegistryClient) -> None:
    assert push(client, DATA) == push(client, DATA)


def test_a_blob_of_one_byte(client: RegistryClient) -> None:
    blob = push(client, b"x")
    assert client.blob(blob, 1) == b"x"


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 1), (0, len(DATA)), (1, 700_000), (len(DATA) - 1, 1)]
)
def test_any_range_of_a_blob(client: RegistryClient, offset: int, size: int) -> None:
    blob = push(client, DATA)
    into = bytearray(size)
    for _ in range(2):  # twice: the connection is used again
        with client.open_range(blob.digest, offset, size, blob.size) as body:
            body.readinto(memoryview(into))
        assert into == DATA[offset : offset + size]


def test_a_blob_larger_than_allowed_is_not_read(client: RegistryClient) -> None:
    blob = push(client, DATA)
    with pytest.raises(TemplateError, match="at most 1000 may be"):
        client.blob(blob, 1000)


def test_a_blob_of_another_size_is_damaged(client: RegistryClient) -> None:
    blob = push(client, DATA)
    for size in (len(DATA) - 1, len(DATA) + 1):
        wrong = Descriptor(media_type=PACK_TYPE, digest=blob.digest, size=size)
        with pytest.raises(TemplateError, match="may be|is damaged"):
            client.blob(wrong, 4 * MiB)


def test_what_is_not_there_is_named(client: RegistryClient) -> None:
    push(client, b"x")
    with pytest.raises(ServerError, match="404") as caught:
        client.manifest("nothing")
    assert caught.value.hint
    assert "demo:nothing" in caught.value.hint


def test_an_upload_goes_on_where_the_server_says(client: RegistryClient) -> None:
    upload = client.start_upload()
    upload.patch(DATA[:MiB], 0)
    assert upload.offset() == MiB
    upload.patch(DATA[MiB:], MiB)
    assert upload.offset() == len(DATA)
    upload.finish(f"sha256:{sha256(DATA).hexdigest()}")
    assert client.has_blob(f"sha256:{sha256(DATA).hexdigest()}")


def test_a_wrong_digest_makes_no_blob(client: RegistryClient) -> None:
    wrong = f"sha256:{sha256(b'other').hexdigest()}"
    upload = client.start_upload()
    upload.patch(DATA, 0)
    with pytest.raises(ServerError):
        upload.finish(wrong)
    assert not client.has_blob(wrong)


def test_an_upload_that_is_cancelled_is_gone(client: RegistryClient) -> None:
    upload = client.start_upload()
    upload.patch(DATA, 0)
    upload.cancel()
    assert upload.offset() is None


def test_a_template_travels_and_is_the_same(client: RegistryClient, tmp_path: Path) -> None:
    data = mixed_bytes(30 * MiB + 512, seed=1)
    source = make_source(tmp_path, data)
    before = sha256(source.device.read_bytes()).hexdigest()
    captured = capture(client, source)
    assert sha256(source.device.read_bytes()).hexdigest() == before
    assert captured.used_bytes == len(data)

    template = open_template(client, captured.digest)
    assert open_template(client, "latest").digest == captured.digest
    assert len(template.manifest.packs) > 2
    assert template.volume("root").used_bytes == len(data)

    target = make_target(tmp_path, len(data))
    head = Extent(0, 64 * KiB)
    restored = restore_volume(template, "root", target, BASE, withhold=(head,))
    found = target.read_bytes()
    assert found[BASE + head.end : BASE + len(data)] == data[head.end :]
    assert found[: BASE + head.end] == b"\xa5" * (BASE + head.end)
    assert found[BASE + len(data) :] == b"\xa5" * BASE
    assert restored.withheld == {head: data[: head.end]}
    assert restored.bytes_written == len(data) - head.size

    for mode in (Verify.SAMPLE, Verify.FULL):
        verified = verify_volume(template, "root", target, BASE, mode, skip=(head,))
    assert verified.chunks_checked == verified.chunks == restored.chunks
    assert verified.bytes_checked == len(data) - head.size


def test_what_the_second_look_refuses_is_never_listed(
    client: RegistryClient, tmp_path: Path
) -> None:
    source = make_source(tmp_path, mixed_bytes(9 * MiB, seed=2))
    config, target = make_config(source.volume), RegistryTarget(client)

    def differ() -> None:
        raise SourceUnfit(("the two maps differ",))

    with pytest.raises(SourceUnfit, match="the two maps differ"):
        capture_template(target, config, [source], tag="latest", confirm=differ)
    assert client.find_manifest("latest") is None
    assert capture_template(target, config, [source], tag="latest").uploaded_bytes
    assert client.find_manifest("latest") is not None


def test_a_tiny_volume_comes_as_bytes(client: RegistryClient, tmp_path: Path) -> None:
    code = random.Random(3).randbytes(440)
    captured = capture(client, make_source(tmp_path, code))
    template = open_template(client, captured.digest)
    assert volume_bytes(template, "root", 440) == code
    with pytest.raises(TemplateError, match="has 440 bytes, at most 439 may be"):
        volume_bytes(template, "root", 439)
