"""Secret keys behind a password. The real one costs a GiB; here it is cheap."""

import base64

import pytest

from netboot.signing import KeyUnusable, SecretKey, parse_secret_key, render_secret_key
from tests.unit.make_signed import KEY


def test_a_secret_key_needs_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netboot.signing._SCRYPT_OPERATIONS", 1 << 15)
    monkeypatch.setattr("netboot.signing._SCRYPT_BYTES", 1 << 20)
    hidden = render_secret_key(KEY, "correct horse")
    assert parse_secret_key(hidden, "correct horse", "k") == KEY
    with pytest.raises(KeyUnusable, match="wrong password"):
        parse_secret_key(hidden, "battery staple", "k")
    with pytest.raises(KeyUnusable, match="has a password"):
        parse_secret_key(hidden, None, "k")


def test_a_secret_does_not_lie_in_its_file_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netboot.signing._SCRYPT_OPERATIONS", 1 << 15)
    monkeypatch.setattr("netboot.signing._SCRYPT_BYTES", 1 << 20)
    raw = base64.b64decode(render_secret_key(KEY, "correct horse").split(b"\n")[1])
    assert KEY.seed not in raw
    assert KEY.seed in base64.b64decode(render_secret_key(KEY, None).split(b"\n")[1])


def test_a_secret_key_does_not_show_itself() -> None:
    assert "1111" not in repr(SecretKey(b"1" * 8, b"1" * 32))
