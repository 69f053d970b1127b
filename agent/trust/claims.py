"""A job as a server signed it: checked before a word of it is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from agent.model.job import CaptureSpec, Claim, DeploySpec, SignedClaim
from agent.model.wire import decode
from agent.trust.minisign import PublicKey, TrustError, parse_signature, verify

_WHAT: Final = "the job"
_HINT: Final = "is that the server whose key is in this image? metalcast build-image --server-key"


@dataclass(frozen=True, slots=True)
class Asked:
    """What an agent asked for: an answer to anything else is not its."""

    machine: str
    agent: str
    nonce: str


@dataclass(frozen=True, slots=True)
class TrustedClaim:
    """A job that may be done. `key` names who signed it; None: this image asks for no signature."""

    claim: Claim
    key: str | None


def claim_comment(claim: Claim) -> str:
    """Return the trusted comment of a claim's signature: it is good for nothing else."""
    job = claim.job
    return (
        f"metalcast job={job.id} machine={job.machine} agent={claim.agent} nonce={claim.nonce}"
        f" fence={job.fence} expires={claim.expires_at}"
    )


def open_claim(
    signed: SignedClaim, asked: Asked, keys: Sequence[PublicKey], waited_s: float
) -> TrustedClaim:
    """Return the job in `signed`, if one of `keys` signed it for just this request.

    `waited_s` is how long the answer took. Time is the server's: this machine's clock may be wrong.
    Without keys only the signature is not asked for. Raises TrustError, BadDocument.
    """
    document = signed.document.encode()
    comment = key = None
    if keys:
        try:
            signature = parse_signature(signed.signature.encode(), _WHAT)
            proof = verify(document, signature, keys, _WHAT)
        except TrustError as error:
            raise TrustError(str(error), hint=_HINT) from error
        document, comment, key = proof.data, proof.comment, proof.key.name
    claim = decode(document, Claim, _WHAT)
    if comment is not None and comment != claim_comment(claim):
        raise TrustError("the job was signed as something else: its comment is not that of the job")
    if claim.nonce != asked.nonce:
        raise TrustError("the server's answer is not to this request: an old one, sent again?")
    if claim.job.machine != asked.machine:
        raise TrustError(f"the job is for the machine {claim.job.machine}, not for {asked.machine}")
    if claim.agent != asked.agent:
        raise TrustError("the job is for another agent than this one")
    if claim.job.fence < 1:
        raise TrustError("the job was not claimed: its fence is 0")
    left_s = (_time(claim.expires_at) - _time(claim.server_time)).total_seconds()
    if left_s <= waited_s:
        raise TrustError(
            f"the job has expired: it was good from {claim.server_time} to {claim.expires_at}",
            hint="what is the time on the server?",
        )
    _check_template(claim)
    return TrustedClaim(claim, key)


def clock_difference_s(claim: Claim, now_s: float) -> float:
    """Return by how much this machine's clock is ahead of the server's."""
    return now_s - _time(claim.server_time).timestamp()


def template_name(reference: str) -> str:
    """Return the name in `NAME`, `NAME:TAG` or `NAME@DIGEST`: what its signature must name."""
    return reference.partition("@")[0].partition(":")[0]


def _check_template(claim: Claim) -> None:
    """Raise TrustError unless the job is about one template only."""
    spec, digest = claim.job.spec, claim.job.template_digest
    if isinstance(spec, DeploySpec):
        asked = spec.template.partition("@")[2]
        if digest is None or (asked and asked != digest):
            raise TrustError(f"the job is for {spec.template}, but names the manifest {digest}")
        if claim.repository != template_name(spec.template):
            raise TrustError(f"the job is for {spec.template}, but reads from {claim.repository}")
    if isinstance(spec, CaptureSpec) and claim.repository != spec.name:
        raise TrustError(f"the job captures {spec.name}, but writes to {claim.repository}")


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise TrustError(f"the job names a time that is none: {text[:60]!a}") from error
    if moment.tzinfo is None:
        raise TrustError(f"the job names a time without a zone: {text[:60]!a}")
    return moment
