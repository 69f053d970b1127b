"""Whether a job may be done: replayed, swapped, expired and forged ones are not."""

from typing import Any

import pytest

from agent.errors import AgentError
from agent.model.job import CaptureSpec, DeploySpec, InspectSpec, SignedClaim
from agent.store.source import blob_digest
from agent.trust.claims import Asked, TrustedClaim, claim_comment, clock_difference_s, open_claim
from agent.trust.minisign import PublicKey, TrustError
from tests.unit.make_signed import (
    ASKED,
    KEY,
    OTHER,
    SAME_ID,
    SECOND,
    make_claim,
    sign_claim,
)

KEYS = (KEY.public,)


def opened(
    signed: SignedClaim,
    keys: tuple[PublicKey, ...] = KEYS,
    asked: Asked = ASKED,
    waited_s: float = 1.0,
) -> TrustedClaim:
    return open_claim(signed, asked, keys, waited_s)


def test_a_job_of_our_server_is_taken() -> None:
    trusted = opened(sign_claim(make_claim()))
    assert trusted.key == KEY.public.name
    assert trusted.claim == make_claim()


def test_without_keys_any_server_will_do_and_nobody_is_named() -> None:
    assert opened(sign_claim(make_claim(), OTHER), ()).key is None
    nothing = SignedClaim(document=sign_claim(make_claim()).document, signature="")
    assert opened(nothing, ()).key is None


@pytest.mark.parametrize("key", [OTHER, SAME_ID])
def test_a_job_of_another_server_is_refused(key: Any) -> None:
    with pytest.raises(TrustError) as error:
        opened(sign_claim(make_claim(), key))
    assert "--server-key" in str(error.value.hint)


def test_an_unsigned_job_is_refused() -> None:
    with pytest.raises(TrustError):
        opened(SignedClaim(document=sign_claim(make_claim()).document, signature=""))


def test_nothing_is_read_before_the_signature_was_found_good() -> None:
    """Bytes that no reader of JSON would survive are refused for their signature."""
    signed = SignedClaim(document="[" * 100_000, signature=sign_claim(make_claim()).signature)
    with pytest.raises(TrustError, match="did not sign these bytes"):
        opened(signed)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"fence":1', '"fence":2'),
        ('"token":"t"', '"token":"x"'),
        ("web:latest", "web:latesu"),
        ('"lease_s":60', '"lease_s": 60'),
        ("2026-11-25T12", "2027-11-25T12"),
    ],
)
def test_no_letter_of_a_job_can_be_changed(old: str, new: str) -> None:
    signed = sign_claim(make_claim())
    assert old in signed.document
    changed = SignedClaim(document=signed.document.replace(old, new), signature=signed.signature)
    with pytest.raises(TrustError, match="did not sign these bytes"):
        opened(changed)


# replay, mix and match: whole jobs, rightly signed, that are not the answer to this request


@pytest.mark.parametrize("keys", [KEYS, ()], ids=["with keys", "without keys"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nonce": "6" * 32}, "not to this request"),
        ({"machine": "52-54-00-00-00-02"}, "for the machine 52-54-00-00-00-02"),
        ({"agent": "b" * 32}, "for another agent"),
        ({"fence": 0}, "fence is 0"),
        ({"server_time": "2026-11-25T12:00:00Z"}, "has expired"),
        ({"server_time": "2026-11-26T12:00:00Z"}, "has expired"),
        ({"expires_at": "never"}, "a time that is none"),
        ({"expires_at": "2026-11-25T12:00:00"}, "without a zone"),
        ({"template_digest": None}, "names the manifest None"),
        ({"repository": "db"}, "reads from db"),
        (
            {"spec": DeploySpec(template=f"web@{blob_digest(SECOND)}")},
            "names the manifest sha256:",
        ),
        ({"spec": CaptureSpec(name="db")}, "captures db, but writes to web"),
    ],
)
def test_a_job_that_is_not_the_answer_is_refused(
    changes: dict[str, Any], said: str, keys: tuple[PublicKey, ...]
) -> None:
    with pytest.raises(TrustError, match=said):
        opened(sign_claim(make_claim(**changes)), keys)


def test_an_answer_that_was_held_back_until_it_expired_is_refused() -> None:
    signed = sign_claim(make_claim(expires_at="2026-11-24T12:01:00Z"))
    assert opened(signed, waited_s=59)
    with pytest.raises(TrustError, match="has expired"):
        opened(signed, waited_s=60)


def test_the_comment_must_be_that_of_this_job() -> None:
    claim = make_claim()
    for comment in (claim_comment(make_claim(fence=2)), "metalcast template=web", "x"):
        with pytest.raises(TrustError, match="signed as something else"):
            opened(sign_claim(claim, comment=comment))


def test_an_inspection_needs_no_template() -> None:
    claim = make_claim(spec=InspectSpec(), template_digest=None, repository="none")
    assert opened(sign_claim(claim)).claim == claim


def test_a_document_with_more_than_a_job_is_refused() -> None:
    signed = sign_claim(make_claim())
    more = signed.document[:-1] + ',"more":1}'
    signature = KEY.sign(more.encode(), claim_comment(make_claim())).decode()
    with pytest.raises(AgentError, match="more"):
        opened(SignedClaim(document=more, signature=signature))


def test_how_far_the_clock_is_off() -> None:
    assert clock_difference_s(make_claim(server_time="1970-01-02T00:00:00Z"), 86400.0) == 0
    assert clock_difference_s(make_claim(server_time="1970-01-03T00:00:00Z"), 86400.0) == -86400
