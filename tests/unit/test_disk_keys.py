"""Keys of encrypted disks: in the claim of the agent that needs them, and nowhere else."""

import sqlite3
from pathlib import Path

import msgspec
import pytest

from agent.model.job import CaptureSpec, DeploySpec, JobSpec
from agent.model.keys import DiskKey, KeyKind, keys_for
from agent.model.wire import BadDocument, decode, encode, pretty
from netboot import jobs
from netboot.problems import ProblemError
from netboot.state import State

MACHINE = "52-54-00-12-34-56"
AGENT = "0" * 32
AT = "2026-01-01T00:00:00Z"
SECRET = "correct horse"
UUID = "5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a0ff"
SPECS = (
    DeploySpec(template="debian-13", keys=(DiskKey(passphrase=SECRET),)),
    CaptureSpec(name="debian-13", keys=(DiskKey(device=UUID, passphrase=SECRET),)),
)


def test_no_text_of_a_key_shows_its_secret() -> None:
    key = DiskKey(device=UUID, passphrase=SECRET)
    spec = CaptureSpec(name="debian-13", keys=(key,))
    assert SECRET not in f"{key!r} {key} {spec!r} {tuple(key.__rich_repr__())}"
    assert key.secret() == SECRET.encode()
    assert key.shown == DiskKey(device=UUID, given=KeyKind.PASSPHRASE)


def test_a_key_is_one_secret() -> None:
    for document in (b"{}", b'{"passphrase":"a","key_file_base64":"YWJj"}', b'{"passphrase":""}'):
        with pytest.raises(BadDocument):
            decode(document, DiskKey, "key")


def test_what_cannot_be_read_of_a_key_is_not_quoted() -> None:
    with pytest.raises(BadDocument) as caught:
        decode(b'{"key_file_base64":"c2VjcmV0!"}', DiskKey, "key")
    error: BaseException | None = caught.value
    while error is not None:
        assert "c2Vj" not in str(error)
        error = error.__cause__


def test_a_key_file_is_its_bytes() -> None:
    assert DiskKey(key_file_base64="AAECCg==").secret() == b"\0\x01\x02\n"


def test_keys_that_name_a_device_come_first() -> None:
    any_, named, node, other = (
        DiskKey(passphrase="a"),
        DiskKey(device=UUID, passphrase="b"),
        DiskKey(device="luks0", passphrase="c"),
        DiskKey(device="luks1", passphrase="d"),
    )
    assert keys_for((any_, other, named, node), uuid=UUID, node="luks0") == (named, node, any_)
    assert keys_for((any_, named), uuid=None, node=None) == (any_,)


@pytest.mark.parametrize("spec", SPECS)
def test_the_secret_is_in_the_claim_alone(spec: JobSpec, tmp_path: Path) -> None:
    state = State(tmp_path)
    try:
        made = state.ask(lambda db: jobs.make_job(db, MACHINE, spec, None, AT))
        listed = state.ask(jobs.find_jobs)
        found = state.ask(lambda db: jobs.find_job(db, made.id))
        for job in (made, found, *listed):
            assert SECRET not in pretty(job)
            assert '"given"' in pretty(job)
        granted = state.ask(_claim)
        assert granted is not None
        assert granted.job.spec == spec
        assert SECRET in pretty(granted.job)  # as the agent gets it
        again = state.ask(_claim)  # the same agent, whose answer was lost
        assert again is not None
        assert again.job.spec == spec
    finally:
        state.close()


def test_an_ended_job_has_forgotten_its_keys(tmp_path: Path) -> None:
    state = State(tmp_path)
    try:
        job = state.ask(lambda db: jobs.make_job(db, MACHINE, SPECS[0], None, AT))
        state.ask(lambda db: jobs.cancel_job(db, job.id, AT))
    finally:
        state.close()
    assert SECRET.encode() not in b"".join(
        path.read_bytes() for path in tmp_path.iterdir() if path.is_file()
    )


def test_a_shown_key_cannot_be_used_for_a_job(tmp_path: Path) -> None:
    spec = DeploySpec(template="debian-13", keys=(DiskKey(given=KeyKind.PASSPHRASE),))
    state = State(tmp_path)
    try:
        with pytest.raises(ProblemError, match="made to be shown"):
            state.ask(lambda db: jobs.make_job(db, MACHINE, spec, None, AT))
    finally:
        state.close()


def test_specs_without_keys_are_as_before() -> None:
    old = b'{"kind":"deploy","template":"debian-13"}'
    assert msgspec.json.decode(old, type=JobSpec) == DeploySpec(template="debian-13")
    assert decode(encode(SPECS[0]), DeploySpec, "spec") == SPECS[0]


def _claim(db: sqlite3.Connection) -> jobs.Granted | None:
    return jobs.claim_job(db, MACHINE, AGENT, now=0, at=AT, lease_left_s=lambda _: 0)
