"""The zstd level follows whoever everything waits for."""

import pytest

from agent.stream.levels import LEAST, Levels, most_lanes
from agent.stream.reuse import Odds


def test_a_level_that_was_asked_for_stays() -> None:
    levels = Levels(7, lanes=3)
    for second in range(1, 20):
        levels.waited(second * 2.0, for_upload=1.9)
    assert levels.level == 7


def test_a_slow_upload_raises_the_level_and_busy_lanes_lower_it() -> None:
    levels = Levels(None, lanes=3)
    assert levels.level == LEAST
    seen = []
    for second in range(1, 6):
        levels.waited(second * 2.0, for_upload=1.5)
        seen.append(levels.level)
    assert seen == [3, 4, 5, 6, 7]
    for second in range(6, 20):
        levels.waited(second * 2.0, for_lanes=1.5)
    assert levels.level == LEAST


def test_a_balance_changes_nothing() -> None:
    levels = Levels(None, lanes=3)
    for second in range(1, 30):
        levels.waited(second * 2.0, for_upload=0.9, for_lanes=0.9)
    assert levels.level == LEAST


@pytest.mark.parametrize(("lanes", "most"), [(1, 12), (2, 11), (4, 9), (7, 6), (8, 3), (20, 3)])
def test_the_level_ends_where_memory_does(lanes: int, most: int) -> None:
    levels = Levels(None, lanes)
    for second in range(1, 60):
        levels.waited(second * 2.0, for_upload=2.0)
    assert abs(levels.level - most) <= 1


def test_a_dearer_level_has_fewer_lanes() -> None:
    lanes = [most_lanes(level) for level in (3, 6, 9, 11, 12, 15, 19)]
    assert lanes == [8, 7, 4, 2, 1, 1, 1]
    assert most_lanes(None) == 7, "so that it can rise"


def looks(odds: Odds, holds: list[bool]) -> int:
    """Return how many of the chunks were looked at, when the disk holds those that `holds` says."""
    count = 0
    for same in holds:
        if odds.worth():
            odds.saw(same=same)
            count += 1
    return count


def test_a_foreign_disk_is_left_alone_soon() -> None:
    assert looks(Odds(), [False] * 10_000) < 16 + 10_000 // 64 + 2


@pytest.mark.parametrize("every", [2, 5, 20])
def test_a_disk_that_mostly_matches_is_looked_at_all_the_way(every: int) -> None:
    assert looks(Odds(), [number % every != 0 for number in range(5000)]) == 5000


def test_a_template_that_matches_only_further_on_is_found() -> None:
    odds = Odds()
    looks(odds, [False] * 1000)
    assert looks(odds, [True] * 5000) > 4000
