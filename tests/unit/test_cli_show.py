"""What the command line makes of values for a person."""

from datetime import UTC, datetime

import pytest

from netboot.cli.show import format_age

NOW = datetime(2026, 11, 23, 18, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "age"),
    [
        ("2026-11-23T17:59:48Z", "12 s"),
        ("2026-11-23T17:54:10.052Z", "5 min"),
        ("2026-11-21T17:00:00+00:00", "2 d"),
        ("2026-11-23T19:00:00Z", "0 s"),
        ("2026-11-23T17:00:00", "2026-11-23T17:00:00"),
        ("yesterday", "yesterday"),
        (None, None),
    ],
)
def test_ages(at: str | None, age: str | None) -> None:
    assert format_age(at, NOW) == age
