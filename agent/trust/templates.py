"""The signatures of a template: where they are kept, and whether one of them counts.

They are an artifact of their own beside the template, under a tag made of its digest, so that
every registry can hold them and a template need not change to be signed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from agent.model.template import MANIFEST_TYPE, NAME_PATTERN, Descriptor, Digest
from agent.model.wire import Value, decode, encode
from agent.trust.minisign import (
    SIGNATURE_MAX_BYTES,
    PublicKey,
    SignatureBad,
    TrustError,
    names,
    parse_signature,
    verify,
)

SIGNATURE_ARTIFACT: Final = "application/vnd.metalcast.signature.v1"
SIGNATURE_LAYER: Final = "application/vnd.metalcast.signature.v1+minisig"
EMPTY_CONFIG_TYPE: Final = "application/vnd.oci.empty.v1+json"
EMPTY_CONFIG: Final = b"{}"
SIGNATURES_MAX: Final = 16
LIST_MAX_BYTES: Final = 64 * 1024
SIGNATURE_TAG: Final = re.compile(r"sha256-([0-9a-f]{64})\.minisig")
_NAME: Final = NAME_PATTERN.removeprefix("^").removesuffix(r"$(?!\n)")
_COMMENT: Final = re.compile(
    rf"metalcast template=(?P<name>{_NAME}) digest=(?P<digest>sha256:[0-9a-f]{{64}})"
    r" signed=(?P<signed>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"
)


class SignatureSource(Protocol):
    """What signatures are read from: every source of templates is one."""

    def manifest(self, reference: str) -> tuple[bytes, Digest]: ...

    def find_manifest(self, reference: str) -> tuple[bytes, Digest] | None:
        """Return the manifest that a tag names, and its digest; None if there is none."""
        ...

    def blob(self, descriptor: Descriptor, max_bytes: int) -> bytes: ...


class SignatureState(StrEnum):
    GOOD = "good"
    """By a key that is trusted, over this template under this name."""
    UNKNOWN = "unknown key"
    """By a key that was not asked for: it says nothing."""
    BAD = "bad"
    """Damaged, or over something else."""


class SignatureFact(Value, frozen=True, kw_only=True):
    """What one signature of a template is worth."""

    state: SignatureState
    key: str | None
    """The key id that the signature names, as minisign shows it."""
    signed_at: str | None
    """By the signer's clock; only of a good one."""
    text: str


class SignatureList(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The manifest that holds a template's signatures."""

    schema_version: int
    media_type: str
    artifact_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor


@dataclass(frozen=True, slots=True)
class TrustedTemplate:
    """A manifest that may be deployed: who vouches for it, or that nobody had to."""

    digest: Digest
    signed: SignatureFact | None

    @property
    def line(self) -> str:
        if self.signed is None:
            return "NOT VERIFIED: this image has no template keys; it takes unsigned templates"
        return f"signed by {self.signed.key} on {self.signed.signed_at}"


def signature_tag(digest: Digest) -> str:
    """Return the tag under which the signatures of a manifest are kept."""
    return f"{digest.replace(':', '-')}.minisig"


def template_comment(name: str, digest: Digest, signed_at: str) -> str:
    """Return the trusted comment that binds a signature to a name."""
    text = f"metalcast template={name} digest={digest} signed={signed_at}"
    if not _COMMENT.fullmatch(text):
        raise TrustError(f"not what a signature can be about: {text[:200]!a}")
    return text


def read_signatures(source: SignatureSource, digest: Digest) -> tuple[bytes, ...]:
    """Return the signatures that are kept for a manifest, as files. Raises TrustError."""
    found = source.find_manifest(signature_tag(digest))
    if found is None:
        return ()
    what = f"the signatures of {digest[:19]}"
    listed = decode(found[0], SignatureList, what, LIST_MAX_BYTES)
    if listed.artifact_type != SIGNATURE_ARTIFACT:
        raise TrustError(f"{what}: no signatures but {listed.artifact_type[:100]!a}")
    if listed.subject.digest != digest:
        raise TrustError(f"{what} are for {listed.subject.digest}")
    if len(listed.layers) > SIGNATURES_MAX:
        raise TrustError(f"{what}: {len(listed.layers)}, at most {SIGNATURES_MAX} may be")
    for layer in listed.layers:
        if layer.media_type != SIGNATURE_LAYER or layer.size > SIGNATURE_MAX_BYTES:
            raise TrustError(f"{what}: {layer.digest} is no signature")
    return tuple(source.blob(layer, SIGNATURE_MAX_BYTES) for layer in listed.layers)


def render_signature_list(
    template: Descriptor, signatures: Sequence[bytes], digests: Sequence[Digest], config: Digest
) -> bytes:
    """Return the manifest for `signatures`, whose blobs have these `digests`."""
    layers = tuple(
        Descriptor(media_type=SIGNATURE_LAYER, digest=digest, size=len(data))
        for data, digest in zip(signatures, digests, strict=True)
    )
    return encode(
        SignatureList(
            schema_version=2,
            media_type=MANIFEST_TYPE,
            artifact_type=SIGNATURE_ARTIFACT,
            config=Descriptor(media_type=EMPTY_CONFIG_TYPE, digest=config, size=len(EMPTY_CONFIG)),
            layers=layers,
            subject=template,
        )
    )


def check_signatures(
    source: SignatureSource, digest: Digest, name: str, keys: Sequence[PublicKey]
) -> tuple[SignatureFact, ...]:
    """Return what each signature of the template is worth, for whoever trusts `keys`.

    `name` is the template's, as it was asked for. Raises TrustError when what is kept as
    signatures is none, TemplateError and ServerError as sources do.
    """
    files = read_signatures(source, digest)
    if not files:
        return ()
    manifest, found = source.manifest(digest)
    assert found == digest
    return tuple(_fact(file, manifest, digest, name, keys) for file in files)


def require_signature(
    source: SignatureSource, digest: Digest, name: str, keys: Sequence[PublicKey]
) -> TrustedTemplate:
    """Return that a template may be used: one of `keys` signed it, or there are no keys.

    Raises TrustError, which says what was found, what is trusted and what to do.
    """
    if not keys:
        return TrustedTemplate(digest, None)
    facts = check_signatures(source, digest, name, keys)
    for fact in facts:
        if fact.state is SignatureState.GOOD:
            return TrustedTemplate(digest, fact)
    trusted = f"this image trusts {names(keys)}"
    hint = f"metalcast template sign {name}@{digest} --key FILE, with a key that is trusted"
    if not facts:
        raise TrustError(f"the template {name} is not signed; {trusted}", hint=hint)
    reasons = "; ".join(dict.fromkeys(fact.text for fact in facts))
    raise TrustError(f"no signature of {name} counts: {reasons}; {trusted}", hint=hint)


def _fact(
    file: bytes, manifest: bytes, digest: Digest, name: str, keys: Sequence[PublicKey]
) -> SignatureFact:
    what = f"the signature of {name}"
    key: str | None = None
    try:
        signature = parse_signature(file, what)
        key = signature.key_name
        if not any(one.key_id == signature.key_id for one in keys):
            text = f"signed by {key}, which is not trusted"
            if not keys:
                text = f"names the key {key}; not checked, for no key was given"
            return SignatureFact(state=SignatureState.UNKNOWN, key=key, signed_at=None, text=text)
        proof = verify(manifest, signature, keys, what)
        signed_at = _signed_at(proof.comment, digest, name)
    except TrustError as error:
        return SignatureFact(state=SignatureState.BAD, key=key, signed_at=None, text=str(error))
    text = f"signed by {key} on {signed_at}"
    return SignatureFact(state=SignatureState.GOOD, key=key, signed_at=signed_at, text=text)


def _signed_at(comment: str, digest: Digest, name: str) -> str:
    """Return when it was signed. Raises SignatureBad if it was signed as something else."""
    said = _COMMENT.fullmatch(comment)
    if said is None:
        raise SignatureBad(f"signed with a comment that is not ours: {comment[:120]!a}")
    if said["name"] != name:
        raise SignatureBad(f"signed as the template {said['name'][:128]}, not as {name}")
    if said["digest"] != digest:
        raise SignatureBad(f"signed for {said['digest']}, not for {digest}")
    return said["signed"]
