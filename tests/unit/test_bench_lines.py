"""The bench has every figure that it promises, and its lines say what they must."""

import json
from pathlib import Path

import pytest

from tests.bench import capture, deploy, incremental, memory, redeploy
from tests.bench.__main__ import BENCHES, main
from tests.bench.contents import digest_of_files
from tests.bench.line import Line, Peer
from tests.bench.redeploy import check_count
from tests.bench.rounds import BenchFailed

TARGETS = {
    "deploy_vs_partclone": 0.15,
    "deploy_vs_dd": 0.40,
    "deploy_vs_write_limit": 1.5,
    "capture_vs_partclone": 0.50,
    "capture_size_vs_partclone": 1.00,
    "redeploy_bytes_1pct": 1.1,
    "redeploy_bytes_5pct": 1.1,
    "redeploy_bytes_20pct": 1.1,
    "redeploy_time_1pct": 1.2,
    "redeploy_time_5pct": 1.2,
    "redeploy_time_20pct": 1.2,
    "incremental_bytes_5pct": 1.1,
    "peak_memory_capture_1g": 160,  # MiB
    "peak_memory_capture_6g": 160,
    "peak_memory_capture_2t": 160,
    "peak_memory_deploy_1g": 160,
    "peak_memory_deploy_6g": 160,
    "peak_memory_deploy_2t": 160,
}
PROMISED = {
    *("deploy_vs_partclone", "deploy_vs_dd", "deploy_vs_write_limit"),
    *("capture_vs_partclone", "capture_size_vs_partclone", "capture_to_registry_vs_partclone"),
    *(f"redeploy_{what}_{percent}pct" for what in ("bytes", "time") for percent in (1, 5, 20)),
    "incremental_bytes_5pct",
    *(f"peak_memory_{way}_{size}" for way in ("capture", "deploy") for size in ("1g", "6g", "2t")),
    *("disk_size_flatness", "disk_size_flatness_ext4"),
    *("per_chunk_python_us", "per_chunk_python_us_capture", "per_chunk_python_us_read_back"),
}


def make_line(*, worst: bool = False, peer: Peer | None = None, target: float = 0.5) -> Line:
    return Line(
        "deploy_vs_dd", "s", (3.0, 1.0, 2.0), target, "1 GiB", peer=peer, is_worst_case=worst
    )


def test_every_figure_that_is_promised_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert set(capsys.readouterr().out.split()) == set(BENCHES) == PROMISED


def test_each_figure_is_held_to_the_target_that_was_set() -> None:
    ours = (bench.TARGETS for bench in (deploy, capture, redeploy, incremental, memory))
    assert {name: target for one in ours for name, target in one.items()} == TARGETS


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_fewer_than_three_rounds_are_refused(
    rounds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--rounds", str(rounds), "deploy_vs_dd"])
    said = capsys.readouterr().err
    assert f"--rounds {rounds}: a figure needs at least 3 runs" in said


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--quick", "deploy_vs_nothing"])
    assert "no such bench: deploy_vs_nothing" in capsys.readouterr().err


def test_a_line_beside_a_peer_is_judged_by_its_ratio() -> None:
    peer = Peer("curl | zstd -dc | dd", (8.0, 2.0, 4.0))
    line = json.loads(make_line(peer=peer).as_json())
    assert line == {
        "name": "deploy_vs_dd",
        "value": 2,
        "unit": "s",
        "runs": [3, 1, 2],
        "data": "1 GiB",
        "peer": "curl | zstd -dc | dd",
        "peer_value": 4,
        "peer_runs": [8, 2, 4],
        "ratio": 0.5,
        "target": 0.5,
        "met": True,
    }
    assert not make_line(peer=peer, target=0.49).is_met


def test_a_line_without_a_peer_is_judged_by_its_value() -> None:
    line = json.loads(make_line(target=2.0).as_json())
    assert (line["value"], line["target"], line["met"]) == (2, 2.0, True)
    assert not {"peer", "peer_value", "ratio", "note"} & set(line)


def test_the_worst_case_is_the_highest_of_the_runs() -> None:
    line = make_line(worst=True, target=2.0)
    assert (line.value, line.is_met) == (3.0, False)


def make_tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_data_is_known_by_names_and_contents_of_its_files(tmp_path: Path) -> None:
    files = {"bin/tool": "one", "lib/tool.so": "two"}
    one = make_tree(tmp_path / "one", files)
    same = make_tree(tmp_path / "same", dict(reversed(files.items())))
    digest = digest_of_files(one)
    assert len(digest) == 12
    assert digest == digest_of_files(same)
    for number, other in enumerate(({"bin/tool": "two"}, {"bin/other": "one"})):
        changed = make_tree(tmp_path / f"changed-{number}", {**files, **other})
        assert digest_of_files(changed) != digest


def test_a_count_that_the_server_does_not_share_is_no_figure() -> None:
    for sent in (100, 107, 110):
        check_count(sent, fetched=100, beside=10)
    for sent in (99, 111):
        with pytest.raises(BenchFailed, match=f"nginx sent {sent} bytes, ours counts 100"):
            check_count(sent, fetched=100, beside=10)
