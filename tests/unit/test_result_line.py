"""What a result says in one line."""

from agent.model.result import result_line


def test_a_capture_and_a_deploy() -> None:
    captured = {"used_bytes": 2 << 30, "stored_bytes": 1 << 29, "seconds": 40.2}
    assert result_line({**captured, "bottleneck": "compress"}) == (
        "2.0 GiB used, 512.0 MiB stored, 40 s; slowest: compress"
    )
    deployed = {"fetched_bytes": 1 << 20, "kept_bytes": 3 << 30, "bottleneck": "read"}
    assert result_line(deployed) == "1.0 MiB fetched, 3.0 GiB there already; slowest: read"


def test_nothing_to_say_is_nothing() -> None:
    assert result_line({"disks": 2}) is None
