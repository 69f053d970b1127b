"""The files that the kernel shows of a machine, read below any root: `/`, or a recorded copy."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class Tree:
    """`/sys` and `/proc` below `root`. What is absent or unreadable reads as None or as empty."""

    root: Path = Path("/")

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def data(self, path: str) -> bytes | None:
        """Return the bytes of a file. sysfs answers some reads with an error: that is None."""
        try:
            return self.at(path).read_bytes()
        except OSError:
            return None

    def text(self, path: str) -> str | None:
        """Return a file's text without the space around it; None if nothing is left."""
        data = self.data(path)
        return data.decode("utf-8", "replace").replace("\0", "").strip() or None if data else None

    def number(self, path: str) -> int | None:
        """Return a file's decimal number, or None."""
        text = self.text(path)
        try:
            return int(text) if text else None
        except ValueError:
            return None

    def flag(self, path: str) -> bool:
        """Return whether a file says 1."""
        return self.text(path) == "1"

    def names(self, path: str) -> tuple[str, ...]:
        """Return the sorted names in a directory."""
        try:
            return tuple(sorted(entry.name for entry in self.at(path).iterdir()))
        except OSError:
            return ()

    def exists(self, path: str) -> bool:
        return self.at(path).exists()

    def target(self, path: str) -> PurePosixPath | None:
        """Return where a link or path really is, as seen from the root; None if nowhere."""
        try:
            real = self.at(path).resolve(strict=True)
            return PurePosixPath("/") / real.relative_to(self.root.resolve())
        except (OSError, ValueError):
            return None

    def target_name(self, path: str) -> str | None:
        """Return the last part of `target`: the name of a driver, of a bus address."""
        target = self.target(path)
        return target.name if target else None
