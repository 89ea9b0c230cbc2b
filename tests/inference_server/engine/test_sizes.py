"""The size of a batch changes rarely, for each change costs a device dearly."""

import pytest

from inference_server.engine.sizes import BatchSizes


def test_the_size_stays_while_batches_fit_and_goes_down_once_none_needs_it():
    sizes = BatchSizes([1, 2, 4, 8], patience=5)
    assert [sizes.rows(given) for given in (1, 2, 3, 1, 1)] == [8, 8, 8, 8, 4]
    assert [sizes.rows(given) for given in (1, 2, 1, 1, 1, 1)] == [4, 4, 4, 4, 2, 2]


def test_a_batch_that_does_not_fit_is_run_whole_at_once():
    sizes = BatchSizes([1, 2, 4, 8], patience=1)
    assert [sizes.rows(given) for given in (1, 3, 1, 7, 8)] == [1, 4, 1, 8, 8]


def test_a_need_shortly_before_the_size_goes_down_counts():
    sizes = BatchSizes([1, 2, 4, 8], patience=3)
    assert [sizes.rows(given) for given in (1, 1, 8, 1, 1, 2)] == [8, 8, 8, 8, 8, 2]


@pytest.mark.parametrize("given", [1, 3, 9])
def test_without_sizes_nothing_is_filled_up(given):
    assert BatchSizes([]).rows(given) == given


def test_what_exceeds_every_size_is_run_as_it_is_and_changes_nothing():
    sizes = BatchSizes([1, 2], patience=100)
    assert [sizes.rows(given) for given in (7, 1)] == [7, 2]


def test_a_limit_takes_away_what_did_not_run():
    sizes = BatchSizes([1, 2, 4, 8])
    sizes.limit(2)
    assert sizes.larger == [2]
    assert [sizes.rows(given) for given in (1, 4)] == [2, 4]
