"""mkfs.xfs(8), xfs_repair(8) and xfs_growfs(8): make with given features, check, grow."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from agent.errors import AgentError, DiskError
from agent.system.command import Runner
from agent.system.mount import mounted

CHECK_TIMEOUT_S: Final = 12 * 3600.0
_OF_CRC: Final = ("finobt", "rmapbt", "reflink", "inobtcount", "bigtime")
_OF_INODES: Final = ("sparse", "nrext64", "exchange")
_KNOWN: Final = frozenset({"crc", "ftype", "projid32bit", "parent", *_OF_CRC, *_OF_INODES})
_OLD_INODE_BYTES: Final = 256


def xfs_words(
    device: Path, *, uuid: str, label: str, block_bytes: int, features: Iterable[str]
) -> list[str | Path]:
    """Return the command that makes an XFS with these features and no other.

    Without `crc` it is of version 4, the only one that kernels before 3.15 read.
    """
    wanted = frozenset(features)
    if unknown := wanted - _KNOWN:
        raise AgentError(f"mkfs.xfs knows no feature {min(unknown)!r}")

    def switches(names: Iterable[str]) -> str:
        return ",".join(f"{name}={int(name in wanted)}" for name in names)

    words: list[str | Path] = ["mkfs.xfs", "-q", "-f", "-K", "-b", f"size={block_bytes}"]
    if "crc" in wanted:
        words += ["-m", f"crc=1,uuid={uuid},{switches(_OF_CRC)}"]
        words += ["-i", switches(_OF_INODES)]
        words += ["-n", f"parent={int('parent' in wanted)}"]
    else:
        words += ["-m", f"crc=0,uuid={uuid}"]
        words += ["-i", f"size={_OLD_INODE_BYTES},{switches(['projid32bit'])}"]
        words += ["-n", switches(["ftype"])]
    if label:
        words += ["-L", label]
    return [*words, device]


def make_xfs(
    run: Runner,
    device: Path,
    *,
    uuid: str,
    label: str,
    block_bytes: int,
    features: Iterable[str],
) -> None:
    """Make an empty XFS with its log inside. It needs 300 MiB."""
    run(
        xfs_words(device, uuid=uuid, label=label, block_bytes=block_bytes, features=features),
        timeout_s=600,
    )


def check_xfs(run: Runner, device: Path) -> None:
    """Check all of it without writing. Raises DiskError if anything is wrong."""
    answer = run(["xfs_repair", "-n", device], ok=range(256), timeout_s=CHECK_TIMEOUT_S)
    if answer.status != 0:
        said = " | ".join((answer.text + answer.stderr).splitlines()[-6:])
        raise DiskError(f"the XFS filesystem on {device} is damaged: {said}")


def grow_xfs(run: Runner, device: Path, where: Path) -> None:
    """Let the filesystem take all of its device. It is mounted at `where` meanwhile."""
    with mounted(run, device, where, "xfs", "rw,nosuid,nodev,noexec,nouuid"):
        run(["xfs_growfs", "-d", where], timeout_s=600)
