"""mke2fs(8): an ext filesystem with given features and no other."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from agent.system.command import Runner

_TIMEOUT_S: Final = 3600.0
CARRIED: Final = frozenset(
    {
        *("has_journal", "ext_attr", "resize_inode", "dir_index", "sparse_super2", "fast_commit"),
        *("stable_inodes", "orphan_file", "filetype", "meta_bg", "extent", "64bit", "flex_bg"),
        *("ea_inode", "large_dir", "inline_data", "encrypt", "casefold", "metadata_csum_seed"),
        *("sparse_super", "large_file", "huge_file", "uninit_bg", "dir_nlink", "extra_isize"),
        *("quota", "metadata_csum", "project", "verity"),
    }
)
"""Features that a new filesystem takes over. Not those of a state (needs_recovery), nor bigalloc
and mmp: whoever reads the others reads a filesystem without these."""


def ext_words(
    device: Path, *, uuid: str, label: str, block_bytes: int, features: Iterable[str]
) -> list[str | Path]:
    """Return the command that makes an ext filesystem with those of `features` that carry over."""
    wanted = [name for name in features if name in CARRIED]
    kind = "ext4" if "extent" in wanted else "ext3" if "has_journal" in wanted else "ext2"
    words: list[str | Path] = ["mke2fs", "-q", "-F", "-t", kind, "-b", str(block_bytes)]
    words += ["-U", uuid, "-E", "nodiscard", "-O", ",".join(["none", *wanted])]
    if label:
        words += ["-L", label]
    return [*words, device]


def make_ext(
    run: Runner, device: Path, *, uuid: str, label: str, block_bytes: int, features: Iterable[str]
) -> None:
    """Make an empty ext2, ext3 or ext4, whichever the features are of."""
    run(
        ext_words(device, uuid=uuid, label=label, block_bytes=block_bytes, features=features),
        timeout_s=_TIMEOUT_S,
    )
