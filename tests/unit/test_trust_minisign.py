"""Signatures and public keys: what is good, and everything that is not."""

import base64
import re
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import UsageError
from agent.trust.keyring import Keyring, read_keyring
from agent.trust.minisign import (
    PublicKey,
    SignatureBad,
    TrustError,
    Verified,
    parse_public_key,
    parse_signature,
    render_public_key,
    verify,
)
from netboot.signing import (
    KeyUnusable,
    SecretKey,
    make_key,
    open_server_key,
    parse_secret_key,
    read_secret_key,
    render_secret_key,
    scrypt_numbers,
    write_key_pair,
)

DATA = b'{"schemaVersion":2}'
COMMENT = "metalcast something"
KEY = SecretKey(bytes(range(8)), bytes(32))
OTHER = SecretKey(bytes(range(1, 9)), b"\x01" * 32)
SIGNED = KEY.sign(DATA, COMMENT)


def check(file: bytes, data: bytes = DATA, *keys: PublicKey) -> Verified:
    return verify(data, parse_signature(file, "sig"), keys or (KEY.public,), "the thing")


def with_line(number: int, line: bytes) -> bytes:
    """Return the good signature with another line `number`, from 1."""
    lines = SIGNED.split(b"\n")
    lines[number - 1] = line
    return b"\n".join(lines)


def flipped(line: int, byte: int) -> bytes:
    """Return the good signature with one bit turned in what `line` holds in base64."""
    raw = bytearray(base64.b64decode(SIGNED.split(b"\n")[line - 1]))
    raw[byte] ^= 1
    return with_line(line, base64.b64encode(raw))


def test_a_good_signature_proves_who_signed_what() -> None:
    proof = check(SIGNED, DATA, OTHER.public, KEY.public)
    assert proof == Verified(DATA, COMMENT, KEY.public)


def test_a_key_is_shown_as_minisign_shows_it() -> None:
    assert KEY.public.name == "706050403020100"
    text = render_public_key(KEY.public)
    assert text.startswith("untrusted comment: minisign public key 706050403020100\n")
    assert parse_public_key(text.encode(), "key") == KEY.public


def test_of_two_keys_one_is_enough() -> None:
    assert check(OTHER.sign(DATA, COMMENT), DATA, KEY.public, OTHER.public).key == OTHER.public


def test_a_key_that_is_not_trusted_is_named_beside_those_that_are() -> None:
    with pytest.raises(TrustError, match="signed by 807060504030201; trusted are 706050403020100"):
        check(OTHER.sign(DATA, COMMENT))


def test_no_keys_trust_nobody() -> None:
    with pytest.raises(TrustError, match="trusted are none"):
        verify(DATA, parse_signature(SIGNED, "sig"), (), "the thing")


def test_a_key_with_the_id_of_another_does_not_pass_for_it() -> None:
    forged = replace(OTHER, key_id=KEY.key_id)
    with pytest.raises(SignatureBad, match="names 706050403020100, which did not sign"):
        check(forged.sign(DATA, COMMENT))
    assert check(forged.sign(DATA, COMMENT), DATA, KEY.public, forged.public).key == forged.public
    assert check(SIGNED, DATA, forged.public, KEY.public).key == KEY.public


def test_other_bytes_are_not_what_was_signed() -> None:
    for data in (DATA + b" ", DATA[:-1], b"", DATA.upper()):
        with pytest.raises(SignatureBad):
            check(SIGNED, data)


def test_the_trusted_comment_is_signed_too() -> None:
    for comment in ("metalcast something!", "metalcast somethinG", "", "metalcast something "):
        with pytest.raises(SignatureBad, match="comment was changed after 706050403020100"):
            check(with_line(3, b"trusted comment: " + comment.encode()))


def test_a_comment_cannot_be_moved_from_one_signature_to_another() -> None:
    other = KEY.sign(b"something else", "metalcast other").split(b"\n")
    lines = SIGNED.split(b"\n")
    with pytest.raises(SignatureBad, match="comment was changed"):
        check(b"\n".join([*lines[:2], *other[2:]]))


def test_the_untrusted_comment_says_nothing() -> None:
    assert check(with_line(1, b"untrusted comment: signed by the Pope")).key == KEY.public


@pytest.mark.parametrize("byte", [0, 1, 2, 9, 10, 41, 42, 73])
def test_no_bit_of_the_signature_may_be_turned(byte: int) -> None:
    with pytest.raises(TrustError):
        check(flipped(2, byte))


@pytest.mark.parametrize("byte", [0, 31, 32, 63])
def test_no_bit_of_the_signature_of_the_comment_may_be_turned(byte: int) -> None:
    with pytest.raises(SignatureBad, match="comment was changed"):
        check(flipped(4, byte))


def test_the_older_kind_is_refused_with_what_to_do() -> None:
    raw = base64.b64decode(SIGNED.split(b"\n")[1])
    with pytest.raises(TrustError, match="older kind") as error:
        check(with_line(2, base64.b64encode(b"Ed" + raw[2:])))
    assert "minisign 0.10 or newer" in str(error.value.hint)


@pytest.mark.parametrize("cut", range(0, len(SIGNED), 7))
def test_a_signature_cut_short_is_none(cut: int) -> None:
    with pytest.raises(TrustError):
        check(SIGNED[:cut])


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (b"", "four lines"),
        (b"\0" * 100, "four lines"),
        (SIGNED + b"\n", "four lines"),
        (SIGNED + SIGNED, "four lines"),
        (SIGNED + b"x", "four lines"),
        (SIGNED + b"x" * 4096, r"\d+ bytes, a signature has 4096 at most"),
        (SIGNED.replace(b"\n", b"\r\n"), "."),
        (with_line(1, b"comment: x"), "four lines"),
        (with_line(2, b"!!!!"), "line 2: not base64"),
        (with_line(2, b"RUQ="), "line 2: 2 bytes in base64, 74"),
        (with_line(3, b"trusted: x"), "line 3 is no trusted comment"),
        (with_line(3, b"trusted comment: \xff"), "plain line"),
        (with_line(3, b"trusted comment: \xc3\xa9"), "plain line"),
        (with_line(3, b"trusted comment: a\x07b"), "plain line"),
        (with_line(3, b"trusted comment: " + b"a" * 1025), "at most 1024"),
        (with_line(4, b"AAAA"), "line 4: 3 bytes in base64, 64"),
        (with_line(4, SIGNED.split(b"\n")[3] + b" "), "line 4: not base64"),
    ],
)
def test_what_is_no_signature_says_why(file: bytes, said: str) -> None:
    with pytest.raises(TrustError, match=said):
        check(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not a minisign public key"),
        (b"ssh-ed25519 AAAA me@here\n", "not a minisign public key"),
        (b"untrusted comment: x\n", "not a minisign public key"),
        (b"untrusted comment: x\n%%%\n", "not base64"),
        (b"untrusted comment: x\nRWQ=\n", "2 bytes in base64, 42"),
        (b"untrusted comment: x\n" + base64.b64encode(b"XX" + bytes(40)) + b"\n", "unknown kind"),
        (b"untrusted comment: " + b"x" * 5000, "too many"),
        (render_secret_key(KEY, None), "bytes in base64, 42"),
    ],
)
def test_what_is_no_public_key_says_why(text: bytes, said: str) -> None:
    with pytest.raises(TrustError, match=f"^KEY: .*{said}|^KEY, line 2: .*{said}"):
        parse_public_key(text, "KEY")


def test_the_keys_of_an_image_are_read(tmp_path: Path) -> None:
    for kind, key in (("templates", KEY), ("templates", OTHER), ("server", OTHER)):
        (tmp_path / kind).mkdir(exist_ok=True)
        path = tmp_path / kind / f"{key.public.name}.pub"
        path.write_text(render_public_key(key.public))
    ring = read_keyring(tmp_path)
    assert {key.name for key in ring.templates} == {KEY.public.name, OTHER.public.name}
    assert ring.server == (OTHER.public,)
    text = "\n".join(ring.lines())
    assert "Templates must be signed by 706050403020100 or 807060504030201." in text
    assert "Jobs must be signed by 807060504030201." in text


def test_an_image_without_keys_says_so(tmp_path: Path) -> None:
    ring = read_keyring(tmp_path / "none")
    assert ring == Keyring()
    assert [bool(re.search("UNSIGNED|ANY server", line)) for line in ring.lines()] == [True, True]


def test_one_bad_file_among_the_keys_of_an_image_is_an_error(tmp_path: Path) -> None:
    """Whoever put it there meant to be trusted, and would not be; or the image is damaged."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "a.pub").write_text(render_public_key(KEY.public))
    (tmp_path / "templates" / "b.pub").write_bytes(b"")
    with pytest.raises(TrustError, match=r"b\.pub: not a minisign public key"):
        read_keyring(tmp_path)


def test_a_secret_key_without_a_password_comes_back() -> None:
    key = make_key()
    assert parse_secret_key(render_secret_key(key, None), None, "key") == key
    assert "seed" not in repr(key)


@pytest.mark.parametrize("byte", [0, 2, 4, 62, 70, 102])
def test_a_damaged_secret_key_is_refused(byte: int) -> None:
    lines = render_secret_key(KEY, None).split(b"\n")
    raw = bytearray(base64.b64decode(lines[1]))
    raw[byte] ^= 1
    damaged = b"\n".join([lines[0], base64.b64encode(raw), b""])
    with pytest.raises(KeyUnusable):
        parse_secret_key(damaged, None, "key")


def test_a_password_that_asks_for_too_much_memory_is_refused() -> None:
    lines = render_secret_key(KEY, None).split(b"\n")
    raw = bytearray(base64.b64decode(lines[1]))
    raw[2:4] = b"Sc"
    raw[38:54] = b"\xff" * 7 + b"\x00" + b"\xff" * 7 + b"\x00"
    greedy = b"\n".join([lines[0], base64.b64encode(raw), b""])
    with pytest.raises(KeyUnusable, match="too many"):
        parse_secret_key(greedy, "secret", "key")


@pytest.mark.parametrize(
    ("operations", "memory", "numbers"),
    [
        (1 << 25, 1 << 30, (1 << 20, 8, 1)),  # crypto_pwhash_scryptsalsa208sha256_*_SENSITIVE
        (1 << 19, 1 << 24, (1 << 14, 8, 1)),  # …_INTERACTIVE
        (0, 1 << 24, (1 << 10, 8, 1)),
    ],
)
def test_the_cost_of_a_password_is_chosen_as_libsodium_does(
    operations: int, memory: int, numbers: tuple[int, int, int]
) -> None:
    assert scrypt_numbers(operations, memory) == numbers


def test_key_files_are_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "our.key"
    public = write_key_pair(KEY, path, None)
    assert public == tmp_path / "our.pub"
    assert path.stat().st_mode & 0o777 == 0o600
    for left, gone in ((path, public), (public, path)):
        before = left.read_bytes(), gone.read_bytes()
        gone.unlink()
        with pytest.raises(UsageError, match=f"{left.name} exists already"):
            write_key_pair(OTHER, path, None)
        assert left.read_bytes() == before[0]
        assert not gone.exists()
        gone.write_bytes(before[1])


def test_the_server_has_one_key_for_good(tmp_path: Path) -> None:
    key = open_server_key(tmp_path)
    assert (tmp_path / "server.key").stat().st_mode & 0o777 == 0o600
    public = parse_public_key((tmp_path / "server.pub").read_bytes(), "key")
    assert public == key.public
    (tmp_path / "server.pub").unlink()
    assert open_server_key(tmp_path) == key == read_secret_key(tmp_path / "server.key")
    assert parse_public_key((tmp_path / "server.pub").read_bytes(), "key") == public
