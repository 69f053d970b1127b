"""The bench has every figure that it promises, and its lines say what they must."""

import json

import pytest

from tests.bench.__main__ import BENCHES, main
from tests.bench.line import Line, Peer

PROMISED = {
    *("deploy_vs_partclone", "deploy_vs_dd", "deploy_vs_write_limit"),
    *("capture_vs_partclone", "capture_size_vs_partclone", "capture_to_registry_vs_partclone"),
    *(f"redeploy_{what}_{percent}pct" for what in ("bytes", "time") for percent in (1, 5, 20)),
    "incremental_bytes_5pct",
    *(f"peak_memory_{way}_{size}" for way in ("capture", "deploy") for size in ("1g", "6g", "2t")),
    *("disk_size_flatness", "disk_size_flatness_ext4", "per_chunk_python_us"),
}


def make_line(*, worst: bool = False, peer: Peer | None = None, target: float = 0.5) -> Line:
    return Line(
        "deploy_vs_dd", "s", (3.0, 1.0, 2.0), target, "1 GiB", peer=peer, is_worst_case=worst
    )


def test_every_figure_that_is_promised_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert set(capsys.readouterr().out.split()) == set(BENCHES) == PROMISED


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
