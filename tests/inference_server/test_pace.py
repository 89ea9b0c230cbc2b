"""Which runs are known to be over at once."""

from math import inf

import pytest

from inference_server.pace import MAX_SHAPES, PROOF, QUICK_SECONDS, SLOW_SECONDS, Pace

QUICK = QUICK_SECONDS / 2
LONGER = SLOW_SECONDS / 2


def pace_of(*seconds, shapes="a"):
    """What is known after runs that took so long."""
    pace = Pace()
    for one in seconds:
        pace.learn(shapes, one)
    return pace


def test_what_was_never_run_is_not_quick():
    assert not Pace().is_quick("a")


def test_a_proof_takes_so_many_runs():
    assert not pace_of(*[QUICK] * (PROOF - 1)).is_quick("a")
    assert pace_of(*[QUICK] * PROOF).is_quick("a")
    assert pace_of(*[QUICK_SECONDS] * PROOF).is_quick("a")


def test_what_takes_longer_is_never_proven():
    assert not pace_of(*[1.01 * QUICK_SECONDS] * (10 * PROOF)).is_quick("a")


def test_shapes_are_proven_by_themselves():
    pace = pace_of(*[QUICK] * PROOF, shapes=(("input0", (1, 2)),))
    assert pace.is_quick((("input0", (1, 2)),))
    assert not pace.is_quick((("input0", (2, 2)),))


def test_a_run_that_is_interrupted_does_not_count():
    pace = pace_of(*[QUICK] * PROOF, LONGER)
    assert pace.is_quick("a")
    assert pace_of(*[LONGER] * (PROOF - 1), QUICK).is_quick("a")


def test_the_shortest_run_is_forgotten_in_time():
    pace = pace_of(*[QUICK] * PROOF, *[LONGER] * 100)
    assert not pace.is_quick("a")
    pace.learn("a", QUICK)
    assert pace.is_quick("a")


@pytest.mark.parametrize("slow", [1.01 * SLOW_SECONDS, 60.0, inf])
def test_what_turns_out_slow_has_to_be_proven_anew(slow):
    pace = pace_of(*[QUICK] * (10 * PROOF), slow)
    assert not pace.is_quick("a")
    for _ in range(PROOF - 1):
        pace.learn("a", QUICK)
        assert not pace.is_quick("a")
    pace.learn("a", QUICK)
    assert pace.is_quick("a")


def test_what_is_slow_now_and_then_is_never_proven():
    """As a model is that takes as long as its input wants: the event loop would wait for it again and again."""
    pace = Pace()
    for number in range(20 * PROOF):
        pace.learn("a", QUICK if number % PROOF else 60.0)
        assert not pace.is_quick("a")


def test_only_so_many_shapes_are_kept():
    pace = Pace()
    for size in range(10 * MAX_SHAPES):
        for _ in range(PROOF):
            pace.learn(size, QUICK)
        assert pace.is_quick(size)
    assert len(pace._seen) <= MAX_SHAPES


def test_what_is_slow_takes_no_place_from_what_is_quick():
    pace = pace_of(*[QUICK] * PROOF)
    for size in range(10 * MAX_SHAPES):
        pace.learn(size, 60.0)
    assert pace.is_quick("a")
