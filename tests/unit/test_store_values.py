"""What names things in a store, and what a store must know of a manifest."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.template import CONFIG_TYPE, MANIFEST_TYPE
from netboot.registry.wire import RangeRefused, RequestInvalid, parse_content_range, parse_range
from netboot.store_errors import DigestInvalid, ManifestInvalid, NameInvalid, StoreFull
from netboot.store_manifest import INDEX_TYPE, parse_manifest
from netboot.store_names import Reference, parse_digest, parse_name, parse_reference, parse_tag
from netboot.store_uploads import Room

DIGEST = "sha256:" + "0" * 64
LINK = {"mediaType": CONFIG_TYPE, "digest": DIGEST, "size": 2}


def image(**more: Any) -> bytes:
    document = {"schemaVersion": 2, "config": LINK, "layers": [LINK]}
    return json.dumps({**document, **more}).encode()


@given(st.text(max_size=200))
def test_no_name_leaves_its_folder(text: str) -> None:
    try:
        found = parse_name(text)
    except NameInvalid:
        return
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-/")
    assert ".." not in found
    assert not found.startswith(("/", ".", "-"))
    assert len(found) <= 128


@pytest.mark.parametrize("text", ["", "a" * 129, "-a", ".a", "a b", "a\n", "a:b", "ä", "a/b"])
def test_no_other_tag(text: str) -> None:
    with pytest.raises(NameInvalid):
        parse_tag(text)


@pytest.mark.parametrize(
    "text", ["", DIGEST + "\n", DIGEST[:-1], DIGEST.upper(), "sha512:00", "sha256:../../x"]
)
def test_no_other_digest(text: str) -> None:
    with pytest.raises(DigestInvalid):
        parse_digest(text)


def test_a_reference_names_one_thing() -> None:
    assert parse_reference("web/a") == Reference("web/a", "latest")
    assert parse_reference("web:v1") == Reference("web", "v1")
    assert parse_reference(f"web:v1@{DIGEST}") == Reference("web", DIGEST)
    assert str(parse_reference(f"web@{DIGEST}")) == f"web@{DIGEST}"
    for bad in ("", ":v1", "web:", "web:v1:v2", "Web", "web/:v1"):
        with pytest.raises(NameInvalid):
            parse_reference(bad)
    with pytest.raises(DigestInvalid):
        parse_reference("web@")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("lines=1-2", None),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-", (2, 8)),
        ("bytes=-3", (7, 3)),
        ("bytes=-30", (0, 10)),
        ("bytes=3-99", (3, 7)),
    ],
)
def test_a_range_is_read(header: str | None, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == expected


@pytest.mark.parametrize(
    "header",
    ["bytes=", "bytes=-", "bytes=-0", "bytes=10-", "bytes=5-4", "bytes=0-1,3-4", "bytes=a-b"],
)
def test_a_range_with_nothing_in_it_is_refused(header: str) -> None:
    with pytest.raises(RangeRefused):
        parse_range(header, 10)


def test_a_range_of_an_empty_blob_is_refused() -> None:
    for header in ("bytes=0-", "bytes=-1"):
        with pytest.raises(RangeRefused):
            parse_range(header, 0)


def test_a_content_range_fits_its_content() -> None:
    assert parse_content_range(None, 5) is None
    assert parse_content_range("10-14", 5) == 10
    assert parse_content_range("bytes 10-14/*", None) == 10
    for header, size in (("10-14", 4), ("14-10", 5), ("10", 5), ("10-14,15-16", 5), ("-1-3", 5)):
        with pytest.raises(RequestInvalid):
            parse_content_range(header, size)


def test_a_manifest_says_what_it_needs() -> None:
    facts = parse_manifest(image(subject=LINK, annotations={"a": "b"}), MANIFEST_TYPE)
    assert [link.digest for link in facts.blobs] == [DIGEST, DIGEST]
    assert (facts.artifact_type, facts.subject) == (CONFIG_TYPE, DIGEST)
    assert facts.annotations == {"a": "b"}


def test_a_layer_that_lives_elsewhere_is_not_needed() -> None:
    facts = parse_manifest(image(layers=[{**LINK, "urls": ["http://x"]}]), MANIFEST_TYPE)
    assert len(facts.blobs) == 1


def test_an_index_needs_manifests() -> None:
    data = json.dumps({"schemaVersion": 2, "manifests": [LINK]}).encode()
    facts = parse_manifest(data, INDEX_TYPE)
    assert (len(facts.blobs), len(facts.manifests)) == (0, 1)
    with pytest.raises(ManifestInvalid):
        parse_manifest(data, MANIFEST_TYPE)
    with pytest.raises(ManifestInvalid):
        parse_manifest(image(), INDEX_TYPE)


@pytest.mark.parametrize(
    "more",
    [
        {"schemaVersion": 1},
        {"schemaVersion": "2"},
        {"mediaType": INDEX_TYPE},
        {"config": None},
        {"config": {**LINK, "size": -1}},
        {"config": {**LINK, "size": 2**64}},
        {"config": {**LINK, "digest": "sha256:../../etc"}},
        {"layers": {}},
        {"manifests": []},
        {"annotations": {"a": 1}},
    ],
)
def test_what_is_no_manifest_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ManifestInvalid):
        parse_manifest(image(**more), MANIFEST_TYPE)


def test_space_is_promised_once() -> None:
    room = Room(Path("/"), 10, lambda _: 100)
    room.promise("a", 60)
    with pytest.raises(StoreFull, match="31 B asked for, 30 B to give"):
        room.promise("b", 31)
    room.promise("b", 30)
    room.release("a")
    room.spend("b", 20)
    room.promise("a", 80)
    with pytest.raises(StoreFull):
        room.spend("b", 11)
