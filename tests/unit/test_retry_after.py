"""For how long a server wants to be left alone."""

import pytest

from agent.store.web import retry_after_s

AT_NOON = 1_795_348_800.0
NOON = "Sun, 22 Nov 2026 12:00:00 GMT"
SOON = "Sun, 22 Nov 2026 12:00:07 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "12"}, 12.0),
        ({"Retry-After": SOON}, 7.0),
        ({"Retry-After": SOON, "Date": NOON}, 7.0),
        ({"Retry-After": SOON, "Date": "nonsense"}, 7.0),
        ({"Retry-After": NOON, "Date": SOON}, 0.0),
        ({"Retry-After": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_a_number_or_a_date(headers: dict[str, str], seconds: float) -> None:
    assert retry_after_s(headers, AT_NOON) == seconds


@pytest.mark.parametrize("now", [0.0, 2 * AT_NOON])
def test_the_clock_of_the_server_counts(now: float) -> None:
    assert retry_after_s({"Retry-After": SOON, "Date": NOON}, now) == 7.0
