"""What rendering gives: files of a target root, as text."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class File:
    """One file's whole text and mode. Its owner is root."""

    text: str
    mode: int = 0o644
    only_if: str | None = None
    """Write the file only where this absolute path of the target root exists."""
    keep_link: bool = False
    """Leave the path alone where it is a symbolic link: something else manages it."""


@dataclass(frozen=True, slots=True)
class RenderedTree:
    """Absolute paths in the target root, sorted, with what to write there."""

    files: Mapping[str, File]
    needs: tuple[tuple[str, str], ...] = ()
    """Paths that the captured system must hold for this to work, each with the reason."""
