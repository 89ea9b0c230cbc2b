"""Work that another thread does while its owner goes on."""

from __future__ import annotations

import threading
import weakref

import pytest

from inference_server.video.aside import Aside


class Thing:
    """Something that weak references can be made to."""


def test_the_owner_goes_on_meanwhile() -> None:
    aside, may_end, done = Aside(), threading.Event(), []

    def work() -> None:
        assert may_end.wait(60)
        done.append(threading.current_thread())

    aside.begin(work)
    assert not done
    may_end.set()
    aside.wait()
    assert done != [threading.current_thread()]


def test_work_is_done_one_after_the_other_in_order() -> None:
    aside, done = Aside(), list[int]()
    for number in range(100):
        aside.begin(lambda number=number: done.append(number))
    aside.wait()
    assert done == [*range(100)]


def test_what_work_raises_is_raised_where_more_is_begun_and_nothing_more_is_done() -> None:
    aside, done = Aside(), list[str]()

    def work() -> None:
        raise ValueError("too large")

    aside.begin(work)
    aside.wait()
    with pytest.raises(ValueError, match="too large"):
        aside.begin(lambda: done.append("more"))
    with pytest.raises(ValueError, match="too large"):
        aside.check()
    assert not done


def test_waiting_and_checking_without_work_do_nothing() -> None:
    aside = Aside()
    aside.wait()
    aside.check()


def test_what_was_worked_on_is_let_go_of() -> None:
    aside, thing = Aside(), Thing()
    seen = weakref.ref(thing)
    aside.begin(lambda thing=thing: None)
    aside.wait()
    del thing
    assert seen() is None
