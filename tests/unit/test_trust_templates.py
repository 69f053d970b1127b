"""Whether a template may be deployed: python-tuf's list of attacks, as they would look here."""

import pytest
from msgspec.structs import replace

from agent.errors import AgentError
from agent.model.wire import BadDocument, decode, encode
from agent.store.source import blob_digest
from agent.trust.minisign import PublicKey, TrustError
from agent.trust.templates import (
    SIGNATURES_MAX,
    SignatureList,
    SignatureState,
    check_signatures,
    require_signature,
    signature_tag,
    template_comment,
)
from tests.unit.make_signed import (
    DIGEST,
    KEY,
    MANIFEST,
    OTHER,
    SAME_ID,
    SECOND,
    SIGNED_AT,
    Shelf,
    sign,
)

KEYS = (KEY.public,)


def trusted_by(
    shelf: Shelf, keys: tuple[PublicKey, ...] = KEYS, name: str = "web", digest: str = DIGEST
) -> str | None:
    signed = require_signature(shelf, digest, name, keys).signed
    return signed.key if signed else None


def shelf_with(*signatures: bytes) -> Shelf:
    shelf = Shelf()
    shelf.hold(*signatures)
    return shelf


def test_a_signed_template_is_taken() -> None:
    trusted = require_signature(shelf_with(sign()), DIGEST, "web", KEYS)
    assert trusted.digest == DIGEST
    assert trusted.line == f"signed by {KEY.public.name} on {SIGNED_AT}"


def test_without_keys_anything_is_taken_and_that_is_said() -> None:
    trusted = require_signature(Shelf(), DIGEST, "web", ())
    assert trusted.signed is None
    assert "NOT VERIFIED" in trusted.line


# arbitrary software


def test_an_unsigned_template_is_refused() -> None:
    with pytest.raises(TrustError, match="web is not signed") as error:
        trusted_by(Shelf({DIGEST: MANIFEST}))
    assert KEY.public.name in str(error.value)
    assert "metalcast template sign web@sha256:" in str(error.value.hint)


def test_a_template_signed_by_another_is_refused() -> None:
    with pytest.raises(TrustError, match="not trusted") as error:
        trusted_by(shelf_with(sign(OTHER)))
    assert OTHER.public.name in str(error.value)
    assert KEY.public.name in str(error.value)


def test_a_key_with_the_id_of_ours_is_not_ours() -> None:
    with pytest.raises(TrustError, match="did not sign"):
        trusted_by(shelf_with(sign(SAME_ID)))


def test_a_false_signature_beside_a_good_one_does_no_harm() -> None:
    for others in ((sign(OTHER),), (sign(SAME_ID),), (b"garbage",), (b"",)):
        assert trusted_by(shelf_with(*others, sign())) == KEY.public.name


# mix and match, rollback


def test_the_signature_of_another_manifest_is_refused() -> None:
    with pytest.raises(TrustError, match="did not sign these bytes"):
        trusted_by(shelf_with(sign(manifest=SECOND)))


def test_an_old_manifest_is_not_the_one_that_the_job_names() -> None:
    """Rolled back by whoever holds the store: the job's digest decides, not the tag."""
    shelf = Shelf()
    shelf.hold(sign(manifest=SECOND), manifest=SECOND, about=SECOND)
    shelf.manifests[DIGEST] = SECOND
    with pytest.raises(TrustError, match="not signed"):
        trusted_by(shelf)


def test_a_template_under_another_name_is_refused() -> None:
    with pytest.raises(TrustError, match="signed as the template db, not as web"):
        trusted_by(shelf_with(sign(name="db")))


def test_a_comment_that_names_another_digest_is_refused() -> None:
    with pytest.raises(TrustError, match="signed for sha256:"):
        trusted_by(shelf_with(sign(digest=blob_digest(SECOND))))


@pytest.mark.parametrize(
    "comment",
    [
        "timestamp:1795547307\tfile:m\thashed".replace("\t", " "),
        f"metalcast template=web digest={DIGEST}",
        f"metalcast template=web digest={DIGEST} signed=yesterday",
        f"metalcast template=web digest={DIGEST} signed={SIGNED_AT} ",
        f" metalcast template=web digest={DIGEST} signed={SIGNED_AT}",
        f"metalcast template=web/../db digest={DIGEST} signed={SIGNED_AT}",
        f"metalcast job=j-0123456789ab machine=web digest={DIGEST}",
        "",
    ],
)
def test_what_was_signed_as_something_else_is_refused(comment: str) -> None:
    with pytest.raises(TrustError, match="a comment that is not ours"):
        trusted_by(shelf_with(KEY.sign(MANIFEST, comment)))


def test_a_comment_is_made_by_the_same_grammar() -> None:
    assert SIGNED_AT in template_comment("a/b-c", DIGEST, SIGNED_AT)
    for name in ("WEB", "web digest=x", "", "web\n"):
        with pytest.raises(TrustError):
            template_comment(name, DIGEST, SIGNED_AT)


def test_signatures_listed_for_another_template_are_refused() -> None:
    shelf = Shelf()
    shelf.hold(sign(), about=SECOND)
    with pytest.raises(TrustError, match="are for sha256:"):
        trusted_by(shelf)


# endless data, garbage


def change(shelf: Shelf, **changes: object) -> None:
    tag = signature_tag(DIGEST)
    listed = decode(shelf.manifests[tag], SignatureList, "list")
    shelf.manifests[tag] = encode(replace(listed, **changes))


def test_more_signatures_than_anybody_needs_are_refused() -> None:
    shelf = shelf_with(*[sign(OTHER)] * SIGNATURES_MAX)
    with pytest.raises(TrustError, match="not trusted"):
        trusted_by(shelf)
    with pytest.raises(TrustError, match="17, at most 16"):
        trusted_by(shelf_with(*[sign(OTHER)] * SIGNATURES_MAX, sign()))


def test_a_huge_signature_is_not_even_fetched() -> None:
    shelf = shelf_with(sign())
    layer = decode(shelf.manifests[signature_tag(DIGEST)], SignatureList, "list").layers[0]
    change(shelf, layers=(replace(layer, size=1 << 40),))
    shelf.blobs.clear()
    with pytest.raises(TrustError, match="is no signature"):
        trusted_by(shelf)


def test_a_layer_of_another_type_is_refused() -> None:
    shelf = shelf_with(sign())
    layer = decode(shelf.manifests[signature_tag(DIGEST)], SignatureList, "list").layers[0]
    change(shelf, layers=(replace(layer, media_type="text/plain"),))
    with pytest.raises(TrustError, match="is no signature"):
        trusted_by(shelf)


def test_an_artifact_of_another_type_is_refused() -> None:
    shelf = shelf_with(sign())
    change(shelf, artifact_type="application/vnd.dev.cosign.simplesigning.v1")
    with pytest.raises(TrustError, match="no signatures but"):
        trusted_by(shelf)


def test_a_damaged_blob_is_refused() -> None:
    shelf = shelf_with(sign())
    shelf.blobs = {digest: data + b" " for digest, data in shelf.blobs.items()}
    with pytest.raises(AgentError, match="damaged"):
        trusted_by(shelf)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"{" * 5000, b" " * 70_000])
def test_a_list_that_is_none_is_refused(data: bytes) -> None:
    shelf = shelf_with(sign())
    shelf.manifests[signature_tag(DIGEST)] = data
    with pytest.raises((TrustError, BadDocument)):
        trusted_by(shelf)


def test_a_list_with_much_behind_it_is_refused() -> None:
    shelf = shelf_with(sign())
    shelf.manifests[signature_tag(DIGEST)] += b" " * 70_000
    with pytest.raises(BadDocument, match="at most 65536"):
        trusted_by(shelf)


# rotation


def test_keys_can_be_changed_without_a_gap() -> None:
    both = shelf_with(sign(KEY), sign(OTHER))
    assert trusted_by(both, (KEY.public,)) == KEY.public.name  # images of before
    assert trusted_by(both, (OTHER.public,)) == OTHER.public.name  # images of after
    only_new = shelf_with(sign(OTHER))
    assert trusted_by(only_new, (KEY.public, OTHER.public)) == OTHER.public.name
    with pytest.raises(TrustError, match="not trusted"):
        trusted_by(only_new)


def test_every_signature_is_told_what_it_is_worth() -> None:
    facts = check_signatures(
        shelf_with(sign(OTHER), sign(), sign(SAME_ID), b"garbage"), DIGEST, "web", KEYS
    )
    assert [fact.state for fact in facts] == [
        SignatureState.UNKNOWN,
        SignatureState.GOOD,
        SignatureState.BAD,
        SignatureState.BAD,
    ]
    assert facts[0].key == OTHER.public.name
    assert facts[1].signed_at == SIGNED_AT


def test_without_a_key_nothing_is_said_of_trust() -> None:
    (fact,) = check_signatures(shelf_with(sign()), DIGEST, "web", ())
    assert fact.state is SignatureState.UNKNOWN
    assert fact.text == f"names the key {KEY.public.name}; not checked, for no key was given"


def test_a_list_is_a_plain_artifact() -> None:
    listed = decode(shelf_with(sign()).manifests[signature_tag(DIGEST)], dict[str, object], "list")
    assert listed["artifactType"] == "application/vnd.metalcast.signature.v1"
    assert listed["subject"] == {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": DIGEST,
        "size": len(MANIFEST),
    }
    config = listed["config"]
    assert isinstance(config, dict)
    assert config["digest"] == blob_digest(b"{}")
    assert signature_tag(DIGEST) == f"sha256-{DIGEST[7:]}.minisig"
