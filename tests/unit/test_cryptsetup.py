"""LUKS headers as cryptsetup 2.7 printed them in a guest, and the commands that make containers."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.errors import AgentError, SourceUnfit
from agent.model.luks import payload_bytes
from agent.model.nodes import Luks, LuksKdf
from agent.system.command import Output
from agent.tools import cryptsetup
from agent.tools.cryptsetup import WrongKey, format_words, parse_luks1, parse_luks2, read_header
from agent.units import GiB, KiB, MiB
from tests.unit.fake_run import FakeRun

RECORDED = Path(__file__).parent / "recorded_luks"
DEVICE = Path("/dev/sda2")
UUID = "5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a0ff"
LUKS1 = (RECORDED / "luks1.txt").read_text()
LUKS2 = (RECORDED / "luks2.txt").read_text()
METADATA = (RECORDED / "luks2.json").read_text()
LUKS = Luks(
    id="luks0",
    on="disk0p2",
    version=2,
    uuid=UUID,
    label="root disk",
    cipher="aes-xts-plain64",
    key_bytes=64,
    sector_bytes=4096,
    size_bytes=0,
)


def changed(**changes: Any) -> str:
    """Return the recorded metadata with fields of its one segment changed; None takes one away."""
    document = json.loads(METADATA)
    segment = document["segments"]["0"]
    for name, value in changes.items():
        segment.pop(name) if value is None else segment.update({name: value})
    return json.dumps(document)


def test_a_luks1_header() -> None:
    found = parse_luks1(LUKS1, DEVICE)
    assert (found.version, found.uuid, found.label) == (1, UUID, "")
    assert (found.cipher, found.key_bytes, found.keyslots) == ("aes-xts-plain64", 64, 1)
    assert (found.sector_bytes, found.offset_bytes) == (512, 4096 * 512)
    assert (found.kdf, found.kdf_memory_bytes, found.tokens) == (LuksKdf.PBKDF2, 0, ())


def test_a_luks2_header() -> None:
    found = parse_luks2(LUKS2, METADATA, DEVICE)
    assert (found.version, found.uuid, found.label) == (2, UUID, "my disk")
    assert (found.cipher, found.key_bytes, found.keyslots) == ("aes-xts-plain64", 64, 1)
    assert (found.sector_bytes, found.offset_bytes) == (512, 16 * MiB)
    assert (found.kdf, found.kdf_memory_bytes) == (LuksKdf.ARGON2ID, 64 * MiB)
    assert found.tokens == ("clevis",)


def test_a_container_without_a_label() -> None:
    page = LUKS2.replace("my disk", "(no label)")
    assert parse_luks2(page, METADATA, DEVICE).label == ""


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((RECORDED / "luks2-reencrypt.json").read_text(), "being re-encrypted"),
        (changed(integrity={"type": "hmac(sha256)"}), "integrity tags"),
        (changed(type="hw-opal-crypt"), "OPAL"),
        (changed(type="linear"), "segments are linear"),
        (changed(offset="0"), "detached"),
        (changed(size="4096"), "fixed size"),
        (changed(iv_tweak="8"), "IV"),
    ],
)
def test_what_cannot_be_captured_is_refused_with_its_reason(metadata: str, reason: str) -> None:
    with pytest.raises(SourceUnfit, match=f"LUKS container on {DEVICE} .*{reason}"):
        parse_luks2(LUKS2, metadata, DEVICE)


def test_unknown_requirements_and_no_slots_are_refused() -> None:
    document = json.loads(METADATA)
    document["config"]["requirements"] = {"mandatory": ["from-the-future"]}
    document["digests"]["0"]["keyslots"] = []
    with pytest.raises(SourceUnfit) as caught:
        parse_luks2(LUKS2, json.dumps(document), DEVICE)
    assert len(caught.value.objections) == 2
    assert "from-the-future" in caught.value.objections[0]


def test_a_detached_luks1_header_is_refused() -> None:
    page = LUKS1.replace("Payload offset:\t4096", "Payload offset:\t0")
    assert page != LUKS1
    with pytest.raises(SourceUnfit, match="detached"):
        parse_luks1(page, DEVICE)


def test_what_is_no_description_is_an_error() -> None:
    for metadata in ("", "[]", "{}", '{"segments":{"0":1}}', changed(sector_size=None)):
        with pytest.raises(AgentError, match=f"cannot read .*{DEVICE}"):
            parse_luks2(LUKS2, metadata, DEVICE)
    with pytest.raises(AgentError, match="says nothing of 'UUID'"):
        parse_luks1("Payload offset:\t8\nCipher mode: x\n", DEVICE)


def test_the_slot_of_a_person_says_the_kdf() -> None:
    """A slot that belongs to a token may have been made with another."""
    document = json.loads(METADATA)
    slot = document["keyslots"]["0"]
    weak = {"type": "pbkdf2", "hash": "sha256", "iterations": 1000, "salt": ""}
    document["keyslots"]["1"] = {**slot, "kdf": weak}
    document["digests"]["0"]["keyslots"] = ["0", "1"]
    found = parse_luks2(LUKS2, json.dumps(document), DEVICE)
    assert (found.kdf, found.keyslots) == (LuksKdf.PBKDF2, 2)  # slot 0 is the token's


def test_only_version_2_is_asked_for_its_metadata() -> None:
    run = FakeRun({"cryptsetup luksDump": LUKS1})
    assert read_header(run, DEVICE).version == 1
    assert run.lines == ["cryptsetup luksDump /dev/sda2"]


def test_the_command_that_makes_a_container() -> None:
    line = " ".join(map(str, format_words(LUKS, DEVICE)))
    assert line == (
        "cryptsetup luksFormat --batch-mode --type=luks2 --cipher=aes-xts-plain64 --key-size=512 "
        f"--uuid={UUID} --offset=32768 --sector-size=4096 --label=root disk --pbkdf=argon2id "
        "--pbkdf-memory=262144 --iter-time=2000 --key-file=- /dev/sda2"
    )


def test_what_grub_must_open_it_can() -> None:
    first = msgspec.structs.replace(LUKS, version=1, sector_bytes=512, label="")
    line = " ".join(map(str, format_words(first, DEVICE)))
    assert "--hash=sha256 --iter-time=1000" in line
    for word in ("--sector-size", "--label", "--pbkdf"):
        assert word not in line
    second = msgspec.structs.replace(LUKS, kdf=LuksKdf.PBKDF2)
    line = " ".join(map(str, format_words(second, DEVICE)))
    assert "--pbkdf=pbkdf2 --hash=sha256 --iter-time=1000" in line
    assert "--pbkdf-memory" not in line


def test_the_room_inside() -> None:
    assert payload_bytes(LUKS, GiB) == GiB - 16 * MiB
    assert payload_bytes(LUKS, GiB + 512) == GiB - 16 * MiB
    assert payload_bytes(LUKS, MiB) == 0
    first = msgspec.structs.replace(LUKS, version=1, sector_bytes=512)
    assert payload_bytes(first, GiB + 512) == GiB + 512 - 2 * MiB
    small = msgspec.structs.replace(LUKS, offset_bytes=4 * MiB)
    assert payload_bytes(small, GiB) == GiB - 4 * MiB
    assert "--offset=8192" in format_words(small, DEVICE)


def test_a_key_goes_in_by_stdin_alone() -> None:
    run = FakeRun()
    key = b"correct horse"
    cryptsetup.make_luks(run, LUKS, DEVICE, key)
    cryptsetup.open_luks(run, DEVICE, "root", key)
    cryptsetup.open_read_only(run, DEVICE, "root", key)
    assert cryptsetup.test_key(run, DEVICE, key)
    assert len(run.asked) == 4
    for asked in run.asked:
        assert asked.stdin == key
        assert "--key-file=-" in asked.words
        assert b"horse" not in repr(asked.words).encode()
    assert "--readonly" in run.asked[2].words
    assert "--readonly" not in run.asked[1].words


def test_a_wrong_key_is_told_from_other_failures() -> None:
    wrong = FakeRun({"cryptsetup open": 2, "cryptsetup luksUUID": UUID})
    with pytest.raises(WrongKey, match=f"{UUID} on {DEVICE}") as caught:
        cryptsetup.open_luks(wrong, DEVICE, "root", b"secret")
    assert "secret" not in f"{caught.value} {caught.value.hint}"
    assert not cryptsetup.test_key(wrong, DEVICE, b"secret")
    for status, word in ((1, "status 1"), (3, "more memory")):
        other = FakeRun({"cryptsetup open": Output(b"", "", status)})
        with pytest.raises(AgentError, match=word) as error:
            cryptsetup.test_key(other, DEVICE, b"secret")
        assert not isinstance(error.value, WrongKey)


def test_names_and_keys_are_checked_before_anything_runs() -> None:
    run = FakeRun()
    for name in ("", "-x", "a/b", "a b", "x" * 128):
        with pytest.raises(ValueError, match="not a name"):
            cryptsetup.open_luks(run, DEVICE, name, b"k")
    for key in (b"", bytes(cryptsetup.KEY_BYTES_MAX + 1)):
        with pytest.raises(AgentError, match="key"):
            cryptsetup.make_luks(run, LUKS, DEVICE, key)
    assert run.asked == []
    assert cryptsetup.KDF_MEMORY_BYTES // KiB == 262144
