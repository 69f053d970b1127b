"""LUKS containers made by cryptsetup itself: read, opened without a change, made anew, grown."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import SourceUnfit
from agent.model.luks import payload_bytes
from agent.model.nodes import Luks, LuksKdf
from agent.system import block
from agent.system.command import Ran, Run
from agent.tools import cryptsetup
from agent.units import MiB
from tests.guest.conftest import sh

KEY = b"a pass phrase"
UUID = "5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a0ff"
QUICK = ("--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000")
OLD = ("--type=luks1", "--pbkdf-force-iterations=1000")
SIZE = 32 * MiB


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 32 MiB."""
    file = tmp_path / "disk"
    with file.open("wb") as writer:
        writer.truncate(SIZE)
    name = Path(sh("losetup", "--find", "--show", file).strip())
    yield name
    for mapping in ("luks-a", "luks-b"):
        subprocess.run(["cryptsetup", "close", mapping], check=False, capture_output=True)
    sh("udevadm", "settle")
    sh("losetup", "--detach", name)


def make(device: Path, *options: str) -> None:
    key = device.parent.parent / "tmp/luks-key"
    key.write_bytes(KEY)
    sh("cryptsetup", "luksFormat", "--batch-mode", *options, f"--uuid={UUID}", device, key)


def digest(device: Path) -> str:
    block.flush(device)
    return hashlib.sha256(device.read_bytes()).hexdigest()


def write(device: Path, data: bytes) -> None:
    with device.open("r+b") as file:
        file.write(data)
        os.fsync(file.fileno())


def luks(version: int, **changes: object) -> Luks:
    fields = {"cipher": "aes-xts-plain64", "key_bytes": 64, "uuid": UUID, "size_bytes": 0}
    return Luks(id="luks0", on="disk0p1", version=version, **{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "version", "cipher", "key_bytes", "sector", "offset"),
    [
        (OLD, 1, "aes-xts-plain64", 64, 512, None),
        (
            (*OLD, "--cipher=aes-cbc-essiv:sha256", "--key-size=256"),
            1,
            "aes-cbc-essiv:sha256",
            32,
            512,
            None,
        ),
        (("--type=luks2", *QUICK, "--sector-size=512"), 2, "aes-xts-plain64", 64, 512, 16 * MiB),
        (
            ("--type=luks2", *QUICK, "--sector-size=4096", "--key-size=256"),
            2,
            "aes-xts-plain64",
            32,
            4096,
            16 * MiB,
        ),
    ],
)
def test_a_header_is_read(
    options: tuple[str, ...],
    version: int,
    cipher: str,
    key_bytes: int,
    sector: int,
    offset: int | None,
    device: Path,
) -> None:
    make(device, *options)
    found = cryptsetup.read_header(Run(), device)
    assert (found.version, found.uuid, found.cipher) == (version, UUID, cipher)
    assert (found.key_bytes, found.sector_bytes, found.keyslots) == (key_bytes, sector, 1)
    assert found.offset_bytes == offset or (offset is None and found.offset_bytes > 0)
    assert found.tokens == ()


def test_label_and_tokens_are_read(device: Path, tmp_path: Path) -> None:
    make(device, "--type=luks2", *QUICK, "--label=my disk")
    for kind in ("clevis", "systemd-tpm2"):
        token = json.dumps({"type": kind, "keyslots": ["0"]})
        sh("cryptsetup", "token", "import", "--json-file=-", device, stdin=token)
    found = cryptsetup.read_header(Run(), device)
    assert (found.label, sorted(found.tokens)) == ("my disk", ["clevis", "systemd-tpm2"])


@pytest.mark.parametrize("options", [OLD, ("--type=luks2", *QUICK)])
def test_opening_a_protected_device_changes_nothing(options: tuple[str, ...], device: Path) -> None:
    make(device, *options)
    inside = cryptsetup.open_luks(Run(), device, "luks-a", KEY)
    write(inside, b"what is inside" * 1000)
    cryptsetup.close_luks(Run(), "luks-a")
    block.set_read_only(device, True)
    before = digest(device)
    inside = cryptsetup.open_read_only(Run(), device, "luks-a", KEY)
    assert inside.read_bytes().startswith(b"what is inside" * 1000)
    assert block.is_read_only(inside)
    cryptsetup.close_luks(Run(), "luks-a")
    assert not inside.exists()
    assert digest(device) == before
    block.set_read_only(device, False)


@pytest.mark.parametrize("options", [OLD, ("--type=luks2", *QUICK)])
def test_a_wrong_key_says_which_container(options: tuple[str, ...], device: Path) -> None:
    make(device, *options)
    for wrong in (b"wrong", KEY + b"\n"):
        with pytest.raises(cryptsetup.WrongKey, match=f"{UUID} on {device}"):
            cryptsetup.open_read_only(Run(), device, "luks-a", wrong)
        assert not cryptsetup.test_key(Run(), device, wrong)
    assert cryptsetup.test_key(Run(), device, KEY)


def test_a_key_is_bytes_and_in_no_log(device: Path) -> None:
    ran: list[Ran] = []
    run = Run(trace=ran.append)
    key = b"line one\nline two\0\xff"
    cryptsetup.make_luks(run, luks(2), device, key)
    cryptsetup.open_luks(run, device, "luks-a", key)
    assert cryptsetup.test_key(run, device, key)
    assert not cryptsetup.test_key(run, device, key[:8])
    assert len(ran) >= 4
    assert not any(b"line" in repr(one).encode() for one in ran)


@pytest.mark.parametrize(
    "wanted",
    [
        luks(1),
        luks(1, cipher="aes-cbc-essiv:sha256", key_bytes=32, offset_bytes=1 * MiB + MiB),
        luks(2, label="root disk", sector_bytes=4096),
        luks(2, kdf=LuksKdf.PBKDF2),
        luks(2, key_bytes=32, offset_bytes=4 * MiB),
    ],
    ids=["luks1", "luks1-cbc", "luks2", "luks2-pbkdf2", "luks2-small-header"],
)
def test_what_is_made_is_what_was_wanted(wanted: Luks, device: Path) -> None:
    cryptsetup.make_luks(Run(), wanted, device, KEY)
    found = cryptsetup.read_header(Run(), device)
    assert (found.version, found.uuid, found.label) == (wanted.version, UUID, wanted.label)
    assert (found.cipher, found.key_bytes) == (wanted.cipher, wanted.key_bytes)
    assert (found.sector_bytes, found.keyslots) == (wanted.sector_bytes, 1)
    assert found.kdf is (wanted.kdf if wanted.version == 2 else LuksKdf.PBKDF2)
    assert found.kdf_memory_bytes <= cryptsetup.KDF_MEMORY_BYTES
    inside = cryptsetup.open_luks(Run(), device, "luks-a", KEY)
    assert block.size_bytes(inside) == payload_bytes(wanted, block.size_bytes(device))
    assert not block.is_read_only(inside)


def test_the_master_key_is_new_each_time(device: Path) -> None:
    keys = set()
    for _ in range(2):
        cryptsetup.make_luks(Run(), luks(2, kdf=LuksKdf.PBKDF2), device, KEY)
        cryptsetup.open_luks(Run(), device, "luks-a", KEY)
        table = sh(
            "cryptsetup",
            "luksDump",
            "--dump-volume-key",
            "--batch-mode",
            "--key-file=-",
            device,
            stdin=KEY.decode(),
        )
        keys.add(table.partition("MK dump:")[2])
        cryptsetup.close_luks(Run(), "luks-a")
    assert len(keys) == 2
    assert "" not in keys


def test_a_header_that_lies_elsewhere_is_refused(device: Path, tmp_path: Path) -> None:
    header, key = tmp_path / "header", tmp_path / "key"
    key.write_bytes(KEY)
    for kind in (OLD, ("--type=luks2", *QUICK)):
        header.write_bytes(bytes(20 * MiB))
        sh("cryptsetup", "luksFormat", "--batch-mode", *kind, f"--header={header}", device, key)
        with pytest.raises(SourceUnfit, match="detached"):
            cryptsetup.read_header(Run(), header)


def test_a_container_under_re_encryption_is_refused(device: Path) -> None:
    make(device, "--type=luks2", *QUICK)
    sh(
        "cryptsetup",
        "reencrypt",
        "--init-only",
        "--batch-mode",
        *QUICK,
        "--key-file=-",
        device,
        stdin=KEY.decode(),
    )
    with pytest.raises(SourceUnfit, match="being re-encrypted"):
        cryptsetup.read_header(Run(), device)


def test_no_container_is_an_error(device: Path) -> None:
    with pytest.raises(Exception, match="not a valid LUKS device"):
        cryptsetup.read_header(Run(), device)
