"""Signatures that come over a network: what sources may do to them, and that nothing is written
for a template that nobody vouches for."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.errors import AgentError, TemplateError
from agent.flows.capture import capture, open_parent
from agent.flows.deploy import deploy
from agent.flows.workplace import Workplace
from agent.model.job import CaptureSpec, DeploySpec
from agent.model.template import MANIFEST_TYPE, Descriptor
from agent.model.wire import BadDocument
from agent.store.mirrors import Mirrors
from agent.store.retry import Retry
from agent.system.command import Run
from agent.trust.keyring import Keyring
from agent.trust.minisign import TrustError
from agent.trust.templates import (
    EMPTY_CONFIG,
    TrustedTemplate,
    render_signature_list,
    require_signature,
    signature_tag,
    template_comment,
)
from netboot.signing import SecretKey
from tests.contracts.fake_registry import FakeRegistry, Handler, sha256
from tests.contracts.stream_builders import capture as make_parent
from tests.contracts.stream_builders import make_client, make_source
from tests.unit.make_plan import make_drive, make_inventory

OURS = SecretKey(b"ourkeyid", b"o" * 32)
FOREIGN = SecretKey(b"foreigns", b"f" * 32)
KEYS = (OURS.public,)
SIGNED_AT = "2026-11-24T12:00:00Z"
OLD = b"\xa5" * 65536


def manifest(pack: str) -> bytes:
    """Return a manifest with one pack. What is in its blobs does not matter here."""
    layer = {"mediaType": "x/pack", "digest": sha256(pack.encode()), "size": len(pack)}
    config = {"mediaType": "x/config", "digest": sha256(b"config"), "size": 6}
    return json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode()


MANIFEST, ANOTHER = manifest("one"), manifest("two")
DIGEST = sha256(MANIFEST)


def sign(key: SecretKey = OURS, name: str = "demo") -> bytes:
    return key.sign(MANIFEST, template_comment(name, DIGEST, SIGNED_AT))


@dataclass
class Shelf:
    """A registry that has MANIFEST, ANOTHER, and what a test takes for signatures."""

    url: str
    registry: FakeRegistry

    def put(self, *files: bytes, of: str = DIGEST) -> None:
        """Keep `files` as the signatures of a manifest."""
        blobs = self.registry.blobs
        blobs.update({sha256(file): file for file in (*files, EMPTY_CONFIG)})
        size = len(self.registry.manifests[of])
        subject = Descriptor(media_type=MANIFEST_TYPE, digest=of, size=size)
        digests = [sha256(file) for file in files]
        self.put_list(render_signature_list(subject, files, digests, sha256(EMPTY_CONFIG)), of)

    def put_list(self, data: bytes, of: str = DIGEST) -> None:
        self.registry.manifests[signature_tag(of)] = data

    def trust(self) -> TrustedTemplate:
        return require_signature(make_client(self.url), DIGEST, "demo", KEYS)


@pytest.fixture
def shelf() -> Any:
    registry = FakeRegistry()
    for data in (MANIFEST, ANOTHER):
        registry.manifests[sha256(data)] = data
    with registry.serving() as url:
        yield Shelf(url, registry)


def test_a_template_that_is_signed_may_be_deployed(shelf: Shelf) -> None:
    shelf.put(sign())
    trusted = shelf.trust()
    assert trusted.digest == DIGEST
    assert trusted.line == f"signed by {OURS.public.name} on {SIGNED_AT}"


def test_a_signature_of_a_manifest_that_was_changed_since(shelf: Shelf) -> None:
    """Another pack or index in the manifest is another manifest."""
    shelf.put(sign())
    shelf.registry.manifests[DIGEST] = ANOTHER
    with pytest.raises(TemplateError, match=f"is damaged: it has digest {sha256(ANOTHER)}"):
        shelf.trust()


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 60000, b"\xff\xfe", b"null", b"x" * 70000])
def test_garbage_is_no_list_of_signatures(shelf: Shelf, data: bytes) -> None:
    shelf.put_list(data)
    with pytest.raises(BadDocument, match=f"the signatures of {DIGEST[:19]}"):
        shelf.trust()


@pytest.mark.parametrize("what", ["manifests", "blobs"])
def test_endless_data_is_not_read_to_its_end(shelf: Shelf, what: str) -> None:
    sent = 0
    file = sign()
    shelf.put(file)
    target = signature_tag(DIGEST) if what == "manifests" else sha256(file)

    def pour(handler: Handler) -> bool:
        nonlocal sent
        if not handler.path.endswith(f"/{what}/{target}"):
            return False
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        while sent < 64 * 2**20:
            handler.wfile.write(bytes(65536))
            sent += 65536
        return True

    shelf.registry.lie = pour
    with pytest.raises(AgentError):
        shelf.trust()
    assert sent < 16 * 2**20


def test_a_list_of_signatures_is_small(shelf: Shelf) -> None:
    shelf.put(sign())
    data = shelf.registry.manifests[signature_tag(DIGEST)]
    shelf.put_list(data + b" " * (64 * 1024 - len(data)))
    assert shelf.trust().signed is not None
    shelf.put_list(data + b" " * (64 * 1024 + 1 - len(data)))
    with pytest.raises(BadDocument, match="at most 65536"):
        shelf.trust()


def test_a_signature_blob_must_have_its_digest(shelf: Shelf) -> None:
    file = sign(FOREIGN)
    shelf.put(file)
    shelf.registry.blobs[sha256(file)] = sign()
    with pytest.raises(AgentError):
        shelf.trust()


def test_a_mirror_without_the_signatures_is_no_worse_for_it(shelf: Shelf) -> None:
    shelf.put(sign())
    bare = FakeRegistry(manifests={DIGEST: MANIFEST})
    with bare.serving() as url:
        impatient = Retry(attempts=1)
        sources = [make_client(one, retry=impatient) for one in (url, shelf.url)]
        assert require_signature(Mirrors(sources), DIGEST, "demo", KEYS).signed is not None
        with pytest.raises(TrustError, match="is not signed"):
            require_signature(Mirrors(sources[:1]), DIGEST, "demo", KEYS)


@pytest.mark.parametrize("files", [(), (sign(FOREIGN),), (sign(name="other"),)])
def test_a_refused_template_writes_nothing(
    shelf: Shelf, tmp_path: Path, files: tuple[bytes, ...]
) -> None:
    shelf.put(*files)
    disk = tmp_path / "disk"
    disk.write_bytes(OLD)
    drive = make_drive(path=str(disk), size_bytes=len(OLD))
    source = make_client(shelf.url)
    said: list[Any] = []
    place = Workplace(Run(), make_inventory(drive), said.append, source, Keyring(KEYS))
    with pytest.raises(TrustError, match="demo"):
        deploy(place, DeploySpec(template="demo"), DIGEST, "j-0123456789ab")
    assert said == []
    assert disk.read_bytes() == OLD
    asked = [path for _, path, _ in shelf.registry.asked]
    assert not [path for path in asked if path.endswith((sha256(b"config"), sha256(b"one")))]


def test_a_capture_takes_nothing_over_from_a_parent_that_nobody_vouches_for(
    shelf: Shelf, tmp_path: Path
) -> None:
    """Its index says which chunk is the same as ours; what lies behind that is its author's."""
    client = make_client(shelf.url)
    parent = make_parent(client, make_source(tmp_path, b"a system" * 1000)).digest
    spec = CaptureSpec(name="demo", parent="demo:latest")
    for keys, said in ((KEYS, "demo is not signed"), ((), "no disk|0 disks")):
        place = Workplace(Run(), make_inventory(disks=()), lambda _: None, client, Keyring(keys))
        with pytest.raises(AgentError, match=said):
            capture(place, spec)
    trusted = Workplace(Run(), make_inventory(), lambda _: None, client, Keyring(KEYS))
    shelf.put(
        OURS.sign(shelf.registry.manifests[parent], template_comment("demo", parent, SIGNED_AT)),
        of=parent,
    )
    assert open_parent(trusted, spec).digest == parent
