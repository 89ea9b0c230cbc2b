"""The size of a batch changes rarely, for each change costs a device dearly."""

from itertools import pairwise

import numpy as np
import pytest

from inference_server.engine.sizes import BatchSizes

# Seconds that a batch of each size was seen to take on an H100, and a change.
SEEN, CHANGE = {1: 0.0027, 2: 0.0028, 4: 0.0029, 8: 0.0035, 16: 0.0054, 32: 0.0093}, 0.2


def sizes_of(seconds, change_seconds):
    sizes = BatchSizes(list(seconds))
    for size, cost in seconds.items():
        sizes.learn(size, cost, change_seconds)
    return sizes


PROPORTIONAL = {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}


def test_the_size_goes_down_once_staying_has_cost_more_than_the_change():
    sizes = sizes_of(PROPORTIONAL, change_seconds=20)
    assert [sizes.room(1) for _ in range(5)] == [8, 8, 1, 1, 1]  # 7 s lost by each


def test_the_size_goes_up_once_leaving_rows_behind_has_cost_more_than_the_change():
    sizes = sizes_of({1: 1.0, 8: 2.0}, change_seconds=2)
    assert [sizes.room(1) for _ in range(3)] == [8, 8, 1]
    assert [sizes.room(8) for _ in range(4)] == [1, 1, 8, 8]  # 0.75 s lost by each


def test_a_batch_that_needed_the_size_takes_back_some_regret():
    sizes = sizes_of({1: 1.0, 8: 2.0}, change_seconds=2.5)
    assert [sizes.room(waiting) for waiting in (1, 1, 8, 1, 1, 1)] == [8, 8, 8, 8, 8, 1]


def test_sizes_that_take_as_long_are_not_changed_between():
    sizes = sizes_of(SEEN, CHANGE)
    used = [sizes.room(3) for _ in range(1000)]
    assert set(used) == {32, 4}
    assert 25 < used.index(4) < 40  # 6.4 ms lost by each


@pytest.mark.parametrize(("least", "most"), [(1, 4), (5, 14), (9, 20), (1, 32), (30, 60)])
def test_whatever_waits_the_size_settles(least, most):
    sizes = sizes_of(SEEN, CHANGE)
    used = [sizes.room(int(waiting)) for waiting in np.random.default_rng(0).integers(least, most + 1, 20_000)]
    assert sum(one != other for one, other in pairwise(used)) <= 2


def test_what_cannot_be_parted_is_run_whole_at_once():
    sizes = sizes_of(PROPORTIONAL, change_seconds=0)
    assert sizes.room(1) == 1
    assert [sizes.rows(given) for given in (1, 3, 1, 7, 8)] == [1, 4, 4, 8, 8]


def test_a_change_that_seemed_to_save_time_is_taken_to_cost_nothing():
    sizes = sizes_of(dict.fromkeys(PROPORTIONAL, 1.0), change_seconds=-1)
    assert {sizes.room(8) for _ in range(10)} == {8}


def test_what_nobody_timed_stays_as_it_is():
    sizes = BatchSizes([1, 2, 4])
    assert {sizes.room(1) for _ in range(1000)} == {4}


@pytest.mark.parametrize("given", [1, 3, 9])
def test_without_sizes_nothing_is_filled_up(given):
    assert BatchSizes([]).rows(given) == given
    assert BatchSizes([]).room(given) == 0


def test_what_exceeds_every_size_is_run_as_it_is_and_changes_nothing():
    sizes = BatchSizes([1, 2])
    assert [sizes.rows(given) for given in (7, 1)] == [7, 2]


def test_a_limit_takes_away_what_did_not_run():
    sizes = sizes_of(PROPORTIONAL, change_seconds=100)
    sizes.limit(2)
    assert sizes.larger == [2]
    assert [sizes.rows(given) for given in (1, 4)] == [2, 4]
    assert sizes.room(4) == 2
