"""Keys and signatures: what is taken, and nothing else. The real minisign has its own test."""

import base64
from pathlib import Path

import pytest

from agent.trust.keyring import Keyring, read_keyring
from agent.trust.minisign import (
    PublicKey,
    SignatureBad,
    TrustError,
    parse_public_key,
    parse_signature,
    render_public_key,
    verify,
)
from netboot.signing import (
    KeyUnusable,
    SecretKey,
    parse_secret_key,
    render_secret_key,
    scrypt_numbers,
    write_key_pair,
)
from tests.unit.make_signed import KEY, OTHER, SAME_ID

DATA = b"a manifest"
COMMENT = "metalcast of 2026"
GOOD = KEY.sign(DATA, COMMENT)
KEYS = (KEY.public,)


def check(file: bytes, data: bytes = DATA, keys: tuple[PublicKey, ...] = KEYS) -> str:
    return verify(data, parse_signature(file, "it"), keys, "it").comment


def lines(file: bytes) -> list[bytes]:
    return file.split(b"\n")


def with_line(number: int, text: bytes, file: bytes = GOOD) -> bytes:
    changed = lines(file)
    changed[number] = text
    return b"\n".join(changed)


def test_a_good_signature_says_who_signed_what() -> None:
    proof = verify(DATA, parse_signature(GOOD, "it"), KEYS, "it")
    assert (proof.data, proof.comment, proof.key) == (DATA, COMMENT, KEY.public)


def test_other_bytes_are_not_signed() -> None:
    with pytest.raises(SignatureBad, match="did not sign these bytes"):
        check(GOOD, DATA + b" ")


def test_a_key_that_is_not_trusted_is_named_beside_those_that_are() -> None:
    with pytest.raises(TrustError, match=f"{OTHER.public.name}; trusted are {KEY.public.name}"):
        check(OTHER.sign(DATA, COMMENT))


def test_nobody_is_trusted_without_keys() -> None:
    with pytest.raises(TrustError, match="trusted are none"):
        check(GOOD, keys=())


def test_a_changed_trusted_comment_is_found() -> None:
    with pytest.raises(SignatureBad, match="trusted comment was changed"):
        check(with_line(2, b"trusted comment: metalcast of 2027"))


def test_a_changed_untrusted_comment_means_nothing() -> None:
    assert check(with_line(0, b"untrusted comment: by the pope")) == COMMENT


def test_a_comment_of_another_signature_does_not_fit() -> None:
    other = lines(KEY.sign(DATA + b"2", COMMENT))
    with pytest.raises(SignatureBad, match="trusted comment was changed"):
        check(with_line(3, other[3]))


def test_a_key_made_to_have_the_same_id_is_another_key() -> None:
    assert SAME_ID.public.name == KEY.public.name
    with pytest.raises(SignatureBad):
        check(SAME_ID.sign(DATA, COMMENT))
    assert check(SAME_ID.sign(DATA, COMMENT), keys=(KEY.public, SAME_ID.public)) == COMMENT
    assert check(GOOD, keys=(SAME_ID.public, KEY.public)) == COMMENT


@pytest.mark.parametrize("number", range(74))
def test_every_byte_of_a_signature_counts(number: int) -> None:
    raw = bytearray(base64.b64decode(lines(GOOD)[1]))
    raw[number] ^= 1
    with pytest.raises(TrustError):
        check(with_line(1, base64.b64encode(bytes(raw))))


@pytest.mark.parametrize("size", range(0, len(GOOD), 7))
def test_a_signature_that_was_cut_is_none(size: int) -> None:
    with pytest.raises(TrustError):
        parse_signature(GOOD[:size], "it")


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0" * 200, id="zeros"),
        pytest.param(bytes(range(256)), id="all bytes"),
        pytest.param(GOOD + GOOD, id="two in one"),
        pytest.param(GOOD + b"x", id="more behind it"),
        pytest.param(GOOD.replace(b"\n", b"\r\n"), id="other line ends"),
        pytest.param(GOOD + b" " * 5000, id="too long"),
        pytest.param(with_line(0, b"comment: x"), id="no untrusted comment"),
        pytest.param(with_line(2, b"trusted comment: a\x1b[2J"), id="control characters"),
        pytest.param(with_line(2, "trusted comment: ä".encode()), id="not ASCII"),
        pytest.param(with_line(2, b"comment: x"), id="no trusted comment"),
        pytest.param(with_line(1, b"AAAA"), id="short"),
        pytest.param(with_line(1, b"!" * 100), id="no base64"),
        pytest.param(with_line(3, b""), id="no signature of the comment"),
    ],
)
def test_what_is_no_signature_is_refused(file: bytes) -> None:
    with pytest.raises(TrustError):
        check(file)


def test_the_older_kind_is_refused_with_a_way_out() -> None:
    raw = b"Ed" + base64.b64decode(lines(GOOD)[1])[2:]
    with pytest.raises(TrustError, match="older kind") as error:
        parse_signature(with_line(1, base64.b64encode(raw)), "it")
    assert error.value.hint


def test_a_public_key_comes_back_as_it_went() -> None:
    text = render_public_key(KEY.public)
    assert parse_public_key(text.encode(), "k") == KEY.public
    assert parse_public_key(text.replace("\n", "\r\n").encode(), "k") == KEY.public
    assert KEY.public.name in text


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"x\ny\n", id="two lines"),
        pytest.param(GOOD, id="a signature"),
        pytest.param(render_secret_key(KEY, None), id="a secret key"),
        pytest.param(render_public_key(KEY.public).encode() * 60, id="too long"),
    ],
)
def test_a_file_that_is_no_key_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "bad.pub").write_bytes(data)
    with pytest.raises(TrustError, match=r"bad\.pub"):
        read_keyring(tmp_path)


def test_a_keyring_is_what_lies_in_the_folders(tmp_path: Path) -> None:
    assert read_keyring(tmp_path / "none") == Keyring()
    for kind, key in (("templates", KEY), ("server", OTHER)):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "x.pub").write_text(render_public_key(key.public))
    ring = read_keyring(tmp_path)
    assert ring == Keyring((KEY.public,), (OTHER.public,))
    assert KEY.public.name in ring.lines()[0]
    assert OTHER.public.name in ring.lines()[1]


def test_an_image_without_keys_says_so() -> None:
    templates, jobs = Keyring().lines()
    assert "UNSIGNED" in templates
    assert "ANY server" in jobs


def test_a_secret_key_without_password_comes_back_as_it_went() -> None:
    assert parse_secret_key(render_secret_key(KEY, None), None, "k") == KEY


def test_a_secret_key_needs_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netboot.signing._SCRYPT_OPERATIONS", 1 << 15)
    monkeypatch.setattr("netboot.signing._SCRYPT_BYTES", 1 << 20)
    hidden = render_secret_key(KEY, "correct horse")
    assert parse_secret_key(hidden, "correct horse", "k") == KEY
    with pytest.raises(KeyUnusable, match="wrong password"):
        parse_secret_key(hidden, "battery staple", "k")
    with pytest.raises(KeyUnusable, match="has a password"):
        parse_secret_key(hidden, None, "k")
    greedy = base64.b64decode(hidden.split(b"\n")[1])
    greedy = greedy[:38] + b"\xff" * 7 + b"\0" + b"\xff" * 7 + b"\0" + greedy[54:]
    with pytest.raises(KeyUnusable, match="too many"):
        parse_secret_key(b"untrusted comment: x\n" + base64.b64encode(greedy), "x", "k")


def test_a_secret_key_whose_halves_differ_is_refused() -> None:
    text = render_secret_key(KEY, None)
    raw = bytearray(base64.b64decode(text.split(b"\n")[1]))
    raw[70] ^= 1
    damaged = text.split(b"\n")[0] + b"\n" + base64.b64encode(bytes(raw)) + b"\n"
    with pytest.raises(KeyUnusable, match="two halves"):
        parse_secret_key(damaged, None, "k")


@pytest.mark.parametrize("data", [b"", b"x\ny\n", render_public_key(KEY.public).encode(), GOOD])
def test_what_is_no_secret_key(data: bytes) -> None:
    with pytest.raises(KeyUnusable):
        parse_secret_key(data, None, "k")


def test_a_secret_is_for_its_owner_only_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.key"
    public = write_key_pair(KEY, path, None)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public == tmp_path / "mine.pub"
    before = path.read_bytes()
    path.with_suffix(".pub").unlink()
    with pytest.raises(Exception, match="exists already"):
        write_key_pair(OTHER, path, None)
    assert path.read_bytes() == before


def test_a_secret_key_does_not_show_itself() -> None:
    assert "1111" not in repr(SecretKey(b"1" * 8, b"1" * 32))


@pytest.mark.parametrize(
    ("operations", "memory", "numbers"),
    [
        (1 << 25, 1 << 30, (1 << 20, 8, 1)),  # minisign's own
        (524288, 16777216, (16384, 8, 1)),  # libsodium's "interactive"
        (0, 16777216, (1024, 8, 1)),
        (1 << 25, 1 << 20, (1024, 8, 1024)),
    ],
)
def test_scrypt_is_asked_as_libsodium_asks(
    operations: int, memory: int, numbers: tuple[int, int, int]
) -> None:
    assert scrypt_numbers(operations, memory) == numbers
