"""Templates made to hurt: each is refused within a second, in little memory, with the blob named.

Every one goes the whole way: a registry, a client, a restore, in a process whose time and peak
memory are measured. Nothing wrong may be on the disk afterwards.
"""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.errors import TemplateError
from agent.flows.deploy import NO_JOB, make_plan
from agent.flows.workplace import Workplace
from agent.model.job import DeploySpec
from agent.model.template import CHUNK_BYTES
from agent.store.template import open_template
from agent.system.command import Run
from agent.trust.keyring import Keyring
from agent.units import MiB
from tests.contracts.api_server import make_inventory
from tests.contracts.fake_registry import FakeRegistry
from tests.contracts.hostile_maker import Maker
from tests.contracts.hostile_templates import CASES, SIZE
from tests.contracts.seeds import tried
from tests.contracts.stream_builders import BASE, capture, make_client, make_source, mixed_bytes

DATA = mixed_bytes(SIZE, seed=11)
MOST_SECONDS = 1.0
SECONDS = {"index: a million entries, the last one wrong": 5.0}
"""It is read to its end, before anything is written: a second, on a machine that is not busy."""
MOST_MIB = 100
REASONS = {
    "index: a huge window": "is not zstd as we know it: .*requires too much memory",
    "index: a dictionary": "is not zstd as we know it: .*[Dd]ictionary",
    "pack: a bomb": "declares no size",
    "pack: a bomb that declares a chunk": "is not zstd as we know it: .*buffer is too small",
    "pack: a huge window": "wants a window of 134217728 bytes",
    "pack: a skippable frame": "declares 8 bytes, not ",
    "pack: a dictionary": "wants a dictionary",
    "pack: two frames": r"ends at \d+ of \d+ bytes",
    "pack: no checksum": "carries no checksum",
}
"""Why it is refused, where it is good but for that: no other rule may stand in for this one."""
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Verdict:
    kind: str
    message: str
    seconds: float
    peak_mib: float
    blobs: frozenset[str]
    """The digests of the manifest and of all that it names."""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """What a restore of each hostile template came to, in one process for each."""
    folder = tmp_path_factory.mktemp("hostile")
    registry = FakeRegistry()
    with registry.serving() as url:
        client = make_client(url)
        captured = capture(client, make_source(folder, DATA), pack_bytes=5 * MiB)
        maker = Maker(registry, open_template(client, captured.digest))
        digests = {name: make(maker) for name, make in CASES.items()}
        blobs = {digest: blobs_of(registry, digest) for digest in digests.values()}
        ran = subprocess.run(
            [sys.executable, "-m", "tests.contracts.hostile_child", url, folder],
            input="\n".join((captured.digest, *digests.values())) + "\n",
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=300,
        )
        client.close()
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert found[0]["kind"] == "none", "the good one is restored"
    answers = {
        name: Verdict(
            one["kind"],
            one["message"],
            one["seconds"],
            one["peak_mib"],
            blobs[one["digest"]],
        )
        for name, one in zip(digests, found[1:], strict=True)
    }
    tried(len(answers), "hostile templates")
    slowest = max(answers, key=lambda name: answers[name].seconds)
    largest = max(answers, key=lambda name: answers[name].peak_mib)
    print(f"slowest: {slowest}, {answers[slowest].seconds:.2f} s")
    print(f"largest: {largest}, {answers[largest].peak_mib:.0f} MiB")
    assert written_chunks(folder / "0.img") == len(range(0, SIZE, CHUNK_BYTES))
    for number in range(1, len(found)):
        written_chunks(folder / f"{number}.img")
    return answers


def blobs_of(registry: FakeRegistry, manifest: str) -> frozenset[str]:
    named = re.findall(rb"sha256:[0-9a-f]{64}", registry.manifests[manifest])
    return frozenset((manifest, *(digest.decode() for digest in named)))


def written_chunks(target: Path) -> int:
    """Return how many chunks of a once empty target are there; none may be wrong."""
    right = 0
    with target.open("rb") as file:
        assert not any(file.read(BASE))
        for offset in range(0, SIZE, CHUNK_BYTES):
            there = file.read(min(CHUNK_BYTES, SIZE - offset))
            wanted = DATA[offset : offset + len(there)]
            assert there in (wanted, bytes(len(there))), f"{target}: wrong bytes at {offset}"
            right += there == wanted
    target.unlink()
    return right


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_template_is_refused(verdicts: dict[str, Verdict], name: str) -> None:
    verdict = verdicts[name]
    assert verdict.kind in ("TemplateError", "ChunkCorrupt", "BadDocument", "ServerError"), verdict
    assert "Traceback" not in verdict.message
    assert any(blob[:19] in verdict.message for blob in verdict.blobs), verdict.message
    assert re.search(REASONS.get(name, ""), verdict.message), verdict.message
    assert len(verdict.message) < 2000, "a message is for a person"
    if name in SECONDS:
        assert "line 1000001: " in verdict.message
    assert verdict.seconds < SECONDS.get(name, MOST_SECONDS), verdict
    assert verdict.peak_mib < MOST_MIB, verdict


@pytest.mark.parametrize(("name", "refusal"), [("wrong", "line 3: "), ("missing", "is missing: ")])
def test_no_plan_is_made_of_a_template_that_is_not_whole(
    tmp_path: Path, name: str, refusal: str
) -> None:
    """A deployment makes its plan before it writes anything: table and old data are still there."""
    registry = FakeRegistry()
    with registry.serving() as url:
        client = make_client(url)
        digest = capture(client, make_source(tmp_path, DATA), pack_bytes=5 * MiB).digest
        good = open_template(client, digest)
        if name == "wrong":
            digest = CASES["index: a chunk twice"](Maker(registry, good))
        else:
            del registry.blobs[good.manifest.packs[-1].digest]
        place = Workplace(Run(), make_inventory(), lambda _: None, client, Keyring())
        with pytest.raises(
            TemplateError, match=rf"sha256:[0-9a-f]{{12}}.*{refusal}|{refusal}sha256"
        ):
            make_plan(place, DeploySpec(template="demo"), digest, NO_JOB)
        client.close()
