"""Who goes first: urgent jobs, then callers in turn."""

import random
from dataclasses import dataclass

import pytest

from inference_server.fair_queue import FairQueue, Turn


@dataclass(eq=False)
class Job:
    name: str
    turn: Turn
    size: int = 1


def queue_of(*names, **turns):
    """A queue of jobs called `caller number`, in that order."""
    queue = FairQueue()
    for name in names:
        queue.push(Job(name, Turn(name[0], turns.get(name, 0))))
    return queue


def up_to(most, *, only=None):
    """Take `most` jobs, of those that `only` lets pass."""
    room = most

    def fits(job):
        nonlocal room
        if not room:
            return None
        if only and not only(job):
            return False
        room -= 1
        return True

    return fits


def names(jobs):
    return " ".join(job.name for job in jobs)


def test_callers_take_turns_whoever_queued_more():
    queue = queue_of("a1", "a2", "a3", "a4", "b1", "c1", "c2")
    assert names(queue.take(up_to(4))) == "a1 b1 c1 a2"
    assert names(queue.take(up_to(4))) == "c2 a3 a4"
    assert queue.size == 0
    assert queue.take(up_to(4)) == []


def test_one_at_a_time_takes_turns_too():
    queue = queue_of("a1", "a2", "a3", "b1", "b2", "c1")
    assert [names(queue.take(up_to(1))) for _ in range(6)] == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_larger_priority_goes_first():
    queue = queue_of("a1", "a2", "b1", "c1", "c2", c1=1, c2=1, a2=-1)
    assert names(queue.take(up_to(3))) == "c1 c2 a1"
    assert names(queue.take(up_to(3))) == "b1 a2"


def test_who_is_passed_over_goes_first_the_next_time():
    queue = queue_of("a1", "b1", "c1", "a2", "b2", "c2")
    assert names(queue.take(up_to(2, only=lambda job: job.name != "b1"))) == "a1 c1"
    assert names(queue.take(up_to(3))) == "b1 a2 c2"


def test_a_large_job_is_not_starved_by_small_ones():
    queue = FairQueue()
    large = Job("L1", Turn("L"), size=8)
    for caller in "ab":
        queue.push(Job(f"{caller}0", Turn(caller)))
    queue.push(large)
    for round_ in range(1, 4):
        room = 8

        def fits(job):
            nonlocal room
            if room == 0:
                return None
            if job.size > room:
                return False
            room -= job.size
            return True

        taken = queue.take(fits)
        if large in taken:
            break
        for caller in "ab":
            queue.push(Job(f"{caller}{round_}", Turn(caller)))
    assert taken == [large]
    assert round_ == 2


@pytest.mark.parametrize("name", ["a1", "a2", "b1"])
def test_what_is_removed_is_gone(name):
    queue = FairQueue()
    jobs = {name: Job(name, Turn(name[0])) for name in ("a1", "a2", "b1")}
    for job in jobs.values():
        queue.push(job)
    assert queue.remove(jobs[name])
    assert not queue.remove(jobs[name])
    assert queue.size == 2
    assert {job.name for job in queue.take(up_to(9))} == set(jobs) - {name}


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_doubled_or_out_of_order_within_a_caller_and_priority(seed):
    rng = random.Random(seed)  # noqa: S311
    queue, pushed, out, removed = FairQueue(), [], [], set()
    for number in range(300):
        action = rng.random()
        if action < 0.55:
            pushed.append(Job(str(number), Turn(rng.choice("abcdef"), rng.choice([-1, 0, 0, 0, 3]))))
            queue.push(pushed[-1])
        elif action < 0.65 and pushed:
            job = rng.choice(pushed)
            if queue.remove(job):
                removed.add(job)
        else:
            out += queue.take(up_to(rng.randint(1, 6), only=lambda _: rng.random() < 0.7))
        assert queue.size == len(pushed) - len(out) - len(removed)
    while queue.size:
        out += queue.take(up_to(4))
    assert sorted(job.name for job in [*out, *removed]) == sorted(job.name for job in pushed)
    for key in {(job.turn.caller, job.turn.priority) for job in out}:
        numbers = [int(job.name) for job in out if (job.turn.caller, job.turn.priority) == key]
        assert numbers == sorted(numbers)
