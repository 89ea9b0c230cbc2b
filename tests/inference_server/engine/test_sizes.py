"""The size of a batch changes rarely, for each change costs a device dearly."""

import pytest

from inference_server.engine.sizes import BatchSizes


def sizes_of(seconds, change_seconds):
    sizes = BatchSizes(list(seconds))
    for size, cost in seconds.items():
        sizes.learn(size, cost, change_seconds)
    return sizes


PROPORTIONAL = {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}


def test_the_size_goes_down_once_staying_has_cost_more_than_the_change():
    sizes = sizes_of(PROPORTIONAL, change_seconds=20)
    assert [sizes.rows(1) for _ in range(5)] == [8, 8, 1, 1, 1]  # 7 s lost by each


def test_a_size_that_would_not_have_served_all_is_not_taken():
    sizes = sizes_of(PROPORTIONAL, change_seconds=20)
    assert [sizes.rows(given) for given in (3, 1, 4, 1, 1, 3, 1)] == [8, 8, 8, 8, 8, 4, 4]  # 4 s lost by each


def test_one_batch_that_needs_the_size_ends_all_regret():
    sizes = sizes_of(PROPORTIONAL, change_seconds=20)
    assert [sizes.rows(given) for given in (1, 1, 8, 1, 1, 1)] == [8, 8, 8, 8, 8, 1]


def test_a_batch_that_does_not_fit_is_run_whole_at_once():
    sizes = sizes_of(PROPORTIONAL, change_seconds=0)
    assert [sizes.rows(given) for given in (1, 3, 1, 7, 8)] == [1, 4, 1, 8, 8]


def test_sizes_that_take_as_long_are_not_changed_between():
    sizes = sizes_of({1: 2.7, 2: 2.6, 4: 2.6, 8: 2.7, 32: 9.0}, change_seconds=200)
    used = [sizes.rows(3) for _ in range(10_000)]
    assert set(used) == {32, 4}
    assert used.index(4) == 31  # 32 x 6.4 s


def test_what_nobody_timed_stays_as_it_is():
    sizes = BatchSizes([1, 2, 4])
    assert {sizes.rows(1) for _ in range(1000)} == {4}


@pytest.mark.parametrize("given", [1, 3, 9])
def test_without_sizes_nothing_is_filled_up(given):
    assert BatchSizes([]).rows(given) == given


def test_what_exceeds_every_size_is_run_as_it_is_and_changes_nothing():
    sizes = BatchSizes([1, 2])
    assert [sizes.rows(given) for given in (7, 1)] == [7, 2]


def test_a_limit_takes_away_what_did_not_run():
    sizes = sizes_of(PROPORTIONAL, change_seconds=100)
    sizes.limit(2)
    assert sizes.larger == [2]
    assert [sizes.rows(given) for given in (1, 4)] == [2, 4]
