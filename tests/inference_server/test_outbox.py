"""What is told in order, what together, and when an answer waits for the next one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from inference_server import outbox
from inference_server.outbox import Outbox


class Question:
    def __init__(self) -> None:
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()


def ask(box: Outbox[str, Question], count: int) -> list[Question]:
    questions = [Question() for _ in range(count)]
    for question in questions:
        box.expect(question)
        question.answer.add_done_callback(lambda _: box.answered())
    return questions


async def answer(*questions: Question) -> None:
    for question in questions:
        question.answer.set_result("yes")
    await asyncio.sleep(0)  # so that the outbox hears of it


@pytest.fixture(autouse=True)
def patient(monkeypatch: Any) -> None:
    """An answer that waits does so for longer than any test runs, and answers never seem far apart."""
    hold(monkeypatch, 3600, 3600)


def hold(monkeypatch: Any, seconds: float, busy_seconds: float) -> None:
    monkeypatch.setattr(outbox, "HOLD_SECONDS", seconds)
    monkeypatch.setattr(outbox, "BUSY_HOLD_SECONDS", busy_seconds)


async def test_events_and_answers_leave_in_the_order_in_which_they_were_put_in() -> None:
    box: Outbox[str, Question] = Outbox()
    box.put("first")
    one, two = ask(box, 2)
    box.put("last")
    await answer(two)
    assert await box.take() == "first"
    taking = asyncio.create_task(box.take())
    await asyncio.sleep(0)
    assert not taking.done(), "the second answer must wait for the first"
    await answer(one)
    assert await taking == [one]
    assert await box.take() == [two]
    assert await box.take() == "last"


async def test_answers_in_quick_succession_are_taken_together_once_there_are_enough() -> None:
    box: Outbox[str, Question] = Outbox(most=3)
    questions = ask(box, 5)
    await answer(*questions[:2])
    taking = asyncio.create_task(box.take())
    await asyncio.sleep(0)
    assert not taking.done()
    await answer(*questions[2:])
    assert await taking == questions[:3]


async def test_an_answer_does_not_wait_in_a_slow_stream(monkeypatch: Any) -> None:
    hold(monkeypatch, 0, 0)
    box: Outbox[str, Question] = Outbox(most=3)
    one, two, _ = ask(box, 3)
    await answer(one)
    assert await box.take() == [one]
    await answer(two)
    assert await box.take() == [two]


async def test_an_answer_waits_for_no_longer_than_it_may(monkeypatch: Any) -> None:
    box: Outbox[str, Question] = Outbox(most=3)
    one, two, _ = ask(box, 3)
    await answer(one, two)
    monkeypatch.setattr(box, "_hold", lambda: 0.001)
    assert await box.take() == [one, two]


async def test_in_a_slower_stream_an_answer_waits_only_for_what_is_asked_already(monkeypatch: Any) -> None:
    hold(monkeypatch, 0, 3600)
    box: Outbox[str, Question] = Outbox(most=3)
    one, two, three = ask(box, 3)
    await answer(one, two)
    taking = asyncio.create_task(box.take())
    await asyncio.sleep(0)
    assert not taking.done()
    await answer(three)
    assert await taking == [one, two, three]
    questions = ask(box, 2)
    await answer(*questions)
    assert await box.take() == questions


async def test_nothing_waits_before_an_event() -> None:
    box: Outbox[str, Question] = Outbox(most=9)
    questions = ask(box, 2)
    await answer(*questions)
    taking = asyncio.create_task(box.take())
    await asyncio.sleep(0)
    box.put("the end")
    assert await taking == questions
    assert await box.take() == "the end"


async def test_what_went_before_a_failure_is_told_first() -> None:
    box: Outbox[str, Question] = Outbox(most=9)
    good, bad, later = ask(box, 3)
    bad.answer.set_exception(ValueError("broken"))
    await answer(good, later)
    box.put("the end")
    assert await box.take() == [good]
    (failed,) = [question for question in await box.take() if question is bad]
    assert isinstance(failed.answer.exception(), ValueError)


async def test_what_is_unanswered_can_be_told() -> None:
    box: Outbox[str, Question] = Outbox()
    done, waiting = ask(box, 2)
    await answer(done)
    assert box.unanswered() == [waiting]
    assert len(box) == 2
