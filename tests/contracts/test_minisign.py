"""The real minisign beside us: it takes our keys and signatures, and we take its."""

import shutil
import subprocess
from pathlib import Path

import pytest

from agent.trust.keyring import read_key
from agent.trust.minisign import parse_signature, verify
from netboot.signing import KeyUnusable, make_key, read_secret_key, write_key_pair
from tests.conftest import cannot_run

DATA = b'{"a":"manifest"}\n'
PASSWORD = "correct horse"


@pytest.fixture(autouse=True)
def _minisign() -> None:
    if not shutil.which("minisign"):
        cannot_run("minisign is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m").write_bytes(DATA)
    return tmp_path


def minisign(folder: Path, *words: str, typed: str = "") -> str:
    done = subprocess.run(
        ["minisign", *words], cwd=folder, input=typed, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_key_without_password_is_ours_too(folder: Path) -> None:
    minisign(folder, "-G", "-W", "-p", "k.pub", "-s", "k.key")
    key = read_secret_key(folder / "k.key")
    assert key.public == read_key(folder / "k.pub")
    assert f"key {key.public.name}" in (folder / "k.pub").read_text()
    minisign(folder, "-S", "-s", "k.key", "-m", "m", "-t", "its comment")
    signature = parse_signature((folder / "m.minisig").read_bytes(), "it")
    assert verify(DATA, signature, [key.public], "it").comment == "its comment"
    (folder / "ours").write_bytes(key.sign(DATA, "metalcast our comment"))
    shown = minisign(folder, "-V", "-p", "k.pub", "-m", "m", "-x", "ours")
    assert "metalcast our comment" in shown


def test_an_id_that_begins_with_zeros_is_shown_as_it_shows_it(folder: Path) -> None:
    for number in range(200):
        if len(made := minisign_id(folder, f"k{number}")) < 16:
            key = read_key(folder / f"k{number}.pub")
            assert key.name == made
            return
    raise AssertionError("no id of 200 begins with a zero")


def minisign_id(folder: Path, name: str) -> str:
    """Make a key pair and return its id, as its comment has it."""
    minisign(folder, "-G", "-W", "-p", f"{name}.pub", "-s", f"{name}.key")
    return (folder / f"{name}.pub").read_text().split("\n")[0].split()[-1]


def test_its_key_with_a_password_is_ours_too(folder: Path) -> None:
    typed = f"{PASSWORD}\n{PASSWORD}\n"
    minisign(folder, "-G", "-p", "k.pub", "-s", "k.key", typed=typed)
    assert read_secret_key(folder / "k.key", PASSWORD).public == read_key(folder / "k.pub")
    with pytest.raises(KeyUnusable, match="has a password"):
        read_secret_key(folder / "k.key")


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_our_key_is_its_too(password: str | None, folder: Path) -> None:
    key = make_key()
    write_key_pair(key, folder / "k.key", password)
    typed = f"{password}\n" if password else ""
    minisign(folder, "-S", "-s", "k.key", "-m", "m", typed=typed)
    minisign(folder, "-V", "-p", "k.pub", "-m", "m")
    signature = parse_signature((folder / "m.minisig").read_bytes(), "it")
    assert verify(DATA, signature, [key.public], "it").data == DATA


def test_it_refuses_what_we_refuse(folder: Path) -> None:
    key, other = make_key(), make_key()
    write_key_pair(key, folder / "k.key", None)
    good = key.sign(DATA, "metalcast")
    for file in (good.replace(b"metalcast\n", b"metalcasu\n"), other.sign(DATA, "metalcast")):
        (folder / "x").write_bytes(file)
        with pytest.raises(AssertionError, match="(?i)fail|differ|key id"):
            minisign(folder, "-V", "-p", "k.pub", "-m", "m", "-x", "x")


def test_its_older_kind_is_refused_in_words(folder: Path) -> None:
    minisign(folder, "-G", "-W", "-p", "k.pub", "-s", "k.key")
    minisign(folder, "-S", "-l", "-s", "k.key", "-m", "m")
    with pytest.raises(Exception, match="older kind"):
        parse_signature((folder / "m.minisig").read_bytes(), "it")
