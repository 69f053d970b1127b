"""Which paths a pattern names."""

import pytest

from images.globs import Chosen


@pytest.mark.parametrize(
    ("pattern", "path", "named"),
    [
        ("usr/bin/ip", "usr/bin/ip", True),
        ("usr/bin/ip", "usr/bin/ipx", False),
        ("usr/bin/*", "usr/bin/deep/er", False),
        ("usr/lib/**", "usr/lib/deep/er", True),
        ("**/tests/**", "tests/a.py", True),
        ("**/tests/**", "pkg/tests/a.py", True),
        ("**/tests/**", "pkg/contests/a.py", False),
        ("fs/{xfs,nls/nls_utf8}", "fs/nls/nls_utf8", True),
        ("mkfs.ext[234]", "mkfs.ext3", True),
        ("mkfs.ext[234]", "mkfs.ext5", False),
        ("a.b", "axb", False),
        ("hci{,-pci}", "hci", True),
        ("a,b", "a,b", True),
    ],
)
def test_a_pattern_names_a_path(pattern: str, path: str, named: bool) -> None:
    assert (path in Chosen([pattern])) is named


def test_taking_away_wins_wherever_it_stands() -> None:
    chosen = Chosen(["!drivers/md/bcache/**", "drivers/md/**"])
    assert "drivers/md/raid1" in chosen
    assert "drivers/md/bcache/bcache" not in chosen


def test_no_pattern_names_nothing() -> None:
    assert "" not in Chosen([])
    assert "a" not in Chosen(["!b"])


def test_braces_must_match() -> None:
    with pytest.raises(ValueError, match="braces"):
        Chosen(["usr/{bin"])
