"""`metalcast job create wipe`: its words become the job; and keys of disks become a job's."""

import argparse
from pathlib import Path

import pytest

from agent.model.job import CaptureSpec, DiskHints, Finish, JobSpec, Verify, WipeSpec
from agent.model.keys import DiskKey
from agent.model.wipe import WipeMethod
from agent.model.wire import BadDocument, encode
from netboot.api.openapi import make_document
from netboot.cli.jobs import add_parser, make_spec
from netboot.server import ROUTES

MACHINE = ("--machine", "52:54:00:12:34:56")
UUID = "5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a0ff"


def made(*words: str) -> JobSpec:
    parser = argparse.ArgumentParser()
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true")
    add_parser(parser.add_subparsers(), common)
    return make_spec(parser.parse_args(["job", "create", *words]))


def test_a_named_disk() -> None:
    spec = made("wipe", *MACHINE, "--disk-serial", "S1", "--method", "zero", "--verify", "full")
    assert spec == WipeSpec(
        disks=(DiskHints(serial="S1"),), method=WipeMethod.ZERO, verify=Verify.FULL
    )
    assert spec.finish is Finish.POWEROFF


def test_all_disks_must_be_said() -> None:
    assert made("wipe", *MACHINE, "--all-fixed-disks") == WipeSpec(all_fixed=True)
    for words in ((), ("--all-fixed-disks", "--disk-serial", "S1")):
        with pytest.raises(BadDocument, match="either `disks` or `all_fixed`"):
            made("wipe", *MACHINE, *words)


def test_several_disks_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "wipe.yaml"
    file.write_text("disks: [{serial: S1}, {wwn: '0x5000c500a1b2c3d4'}]\nconsent: [crypto_LUKS]\n")
    spec = made("wipe", *MACHINE, "--spec", str(file))
    assert spec == WipeSpec(
        disks=(DiskHints(serial="S1"), DiskHints(wwn="0x5000c500a1b2c3d4")),
        consent=("crypto_LUKS",),
    )
    file.write_text("disks: [{}]\n")
    with pytest.raises(BadDocument, match="without any hint"):
        made("wipe", *MACHINE, "--spec", str(file))


def test_keys_are_read_from_files(tmp_path: Path) -> None:
    phrase, key = tmp_path / "phrase", tmp_path / "key"
    phrase.write_text("correct horse\n")
    key.write_bytes(b"\0\x01\x02\n")
    words = ("--luks-passphrase", str(phrase), "--luks-key", f"{UUID}={key}")
    spec = made("capture", *MACHINE, "--name", "debian-13", *words)
    assert isinstance(spec, CaptureSpec)
    assert spec.keys == (
        DiskKey(passphrase="correct horse"),
        DiskKey(device=UUID, key_file_base64="AAECCg=="),
    )
    assert [one.secret() for one in spec.keys] == [b"correct horse", b"\0\x01\x02\n"]


def test_the_api_describes_a_wipe() -> None:
    text = encode(make_document(ROUTES)).decode()
    assert '"WipeSpec"' in text
    assert '"secure-erase"' in text
