"""mkswap(8): a swap area with a given UUID and label."""

from pathlib import Path

from agent.system.command import Runner


def make_swap(run: Runner, device: Path, *, uuid: str | None, label: str, page_bytes: int) -> None:
    command: list[str | Path] = ["mkswap", "--quiet", f"--pagesize={page_bytes}"]
    if uuid:
        command.append(f"--uuid={uuid}")
    if label:
        command.append(f"--label={label}")
    run([*command, device])
