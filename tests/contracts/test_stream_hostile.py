"""Templates made to hurt: each is refused within a second, in little memory, with the blob named.

Every one goes the whole way: a registry, a client, a restore, in a process whose time and peak
memory are measured. Nothing wrong may be on the disk afterwards.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.model.template import CHUNK_BYTES
from agent.store.template import open_template
from agent.units import MiB
from tests.contracts.fake_registry import FakeRegistry
from tests.contracts.hostile_templates import CASES, SIZE, Maker
from tests.contracts.seeds import tried
from tests.contracts.stream_builders import BASE, capture, make_client, make_source, mixed_bytes

DATA = mixed_bytes(SIZE, seed=11)
MOST_SECONDS = 1.0
MOST_MIB = 100
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Verdict:
    kind: str
    message: str
    seconds: float
    peak_mib: float


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
        name: Verdict(one["kind"], one["message"], one["seconds"], one["peak_mib"])
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
    named = ("sha256:", "layer ", "pack ", "chunk ", "config ", "manifest ", "index ")
    assert any(word in verdict.message for word in named), verdict.message
    assert len(verdict.message) < 2000, "a message is for a person"
    assert verdict.seconds < MOST_SECONDS, verdict
    assert verdict.peak_mib < MOST_MIB, verdict
