"""Keys, templates and jobs that are signed, and a source that holds what a test puts there."""

from dataclasses import dataclass, field
from typing import Any

from agent.errors import TemplateError
from agent.model.job import Claim, DeploySpec, Job, JobState, SignedClaim
from agent.model.template import MANIFEST_TYPE, Descriptor
from agent.model.wire import encode
from agent.store.source import blob_digest
from agent.trust.claims import Asked, claim_comment
from agent.trust.templates import (
    EMPTY_CONFIG,
    render_signature_list,
    signature_tag,
    template_comment,
)
from netboot.signing import SecretKey

KEY = SecretKey(b"\x01" * 8, b"\x11" * 32)
OTHER = SecretKey(b"\x02" * 8, b"\x22" * 32)
SAME_ID = SecretKey(KEY.key_id, b"\x33" * 32)
"""Somebody else's key, made to have the id of `KEY`: ids are not secret and can be chosen."""
SIGNED_AT = "2026-11-24T12:00:00Z"
MANIFEST = b'{"schemaVersion":2,"a":"manifest"}'
DIGEST = blob_digest(MANIFEST)
SECOND = b'{"schemaVersion":2,"a":"newer manifest"}'
ASKED = Asked("52-54-00-12-34-56", "a" * 32, "5" * 32)


def sign(
    key: SecretKey = KEY, manifest: bytes = MANIFEST, name: str = "web", digest: str | None = None
) -> bytes:
    comment = template_comment(name, digest or blob_digest(manifest), SIGNED_AT)
    return key.sign(manifest, comment)


@dataclass
class Shelf:
    """A source of templates. It gives what it was given, whatever that is."""

    manifests: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)

    def hold(self, *signatures: bytes, manifest: bytes = MANIFEST, about: bytes = MANIFEST) -> None:
        """Hold `manifest`, and `signatures` as those of it, in a list whose subject is `about`."""
        self.manifests[blob_digest(manifest)] = manifest
        subject = Descriptor(media_type=MANIFEST_TYPE, digest=blob_digest(about), size=len(about))
        digests = [blob_digest(one) for one in signatures]
        self.blobs.update(zip(digests, signatures, strict=True))
        listed = render_signature_list(subject, signatures, digests, blob_digest(EMPTY_CONFIG))
        self.manifests[signature_tag(blob_digest(manifest))] = listed

    def manifest(self, reference: str) -> tuple[bytes, str]:
        data = self.manifests[reference]
        return data, blob_digest(data)

    def find_manifest(self, reference: str) -> tuple[bytes, str] | None:
        return self.manifest(reference) if reference in self.manifests else None

    def blob(self, descriptor: Descriptor, max_bytes: int) -> bytes:
        assert descriptor.size <= max_bytes
        data = self.blobs[descriptor.digest]
        if blob_digest(data) != descriptor.digest or len(data) != descriptor.size:
            raise TemplateError("the blob is damaged")
        return data


def make_claim(**changes: Any) -> Claim:
    job: dict[str, Any] = {
        "id": "j-0123456789ab",
        "machine": ASKED.machine,
        "spec": DeploySpec(template="web:latest"),
        "state": JobState.RUNNING,
        "fence": 1,
        "template_digest": DIGEST,
        "created_at": "2026-11-24T11:00:00Z",
    }
    job |= {name: changes.pop(name) for name in tuple(changes) if name in job}
    values: dict[str, Any] = {
        "job": Job(**job),
        "agent": ASKED.agent,
        "nonce": ASKED.nonce,
        "token": "t",
        "lease_s": 60,
        "expires_at": "2026-11-25T12:00:00Z",
        "repository": "web",
        "server_time": "2026-11-24T12:00:00Z",
    }
    return Claim(**(values | changes))


def sign_claim(claim: Claim, key: SecretKey = KEY, comment: str | None = None) -> SignedClaim:
    document = encode(claim)
    signature = key.sign(document, comment or claim_comment(claim))
    return SignedClaim(document=document.decode(), signature=signature.decode())
