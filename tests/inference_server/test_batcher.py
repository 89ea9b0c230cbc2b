"""Frames of many callers, run together."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from inference_server.batcher import Batcher


@pytest.fixture
async def batcher_for():
    """A function that makes a batcher over a model."""
    with ThreadPoolExecutor(1) as executor:
        batchers = []

        def make(model):
            batchers.append(Batcher(model, executor))
            return batchers[-1]

        yield make
        for batcher in batchers:
            await batcher.close()


async def entered(model):
    assert await asyncio.to_thread(model.entered.acquire, True, 30)


async def test_each_frame_gets_its_own_answer(batcher_for, fake_model, frame):
    batcher = batcher_for(fake_model(max_batch=4))
    answers = await asyncio.gather(*(batcher.submit(*frame(value)) for value in range(10)))
    assert [int(answer.found.scores[0]) for answer in answers] == list(range(10))


async def test_what_waits_while_the_session_is_busy_is_run_together(batcher_for, fake_model, frame):
    model = fake_model(max_batch=4)
    model.may_run.clear()
    batcher = batcher_for(model)
    first = asyncio.create_task(batcher.submit(*frame()))
    await entered(model)
    rest = [asyncio.create_task(batcher.submit(*frame())) for _ in range(6)]
    await asyncio.sleep(0)
    model.may_run.set()
    await asyncio.gather(first, *rest)
    assert model.batches == [1, 4, 2]


async def test_a_model_of_fixed_batch_runs_frames_one_by_one(batcher_for, fake_model, frame):
    model = fake_model(max_batch=1)
    batcher = batcher_for(model)
    await asyncio.gather(*(batcher.submit(*frame()) for _ in range(5)))
    assert model.batches == [1] * 5


async def test_a_failed_batch_fails_its_frames_and_no_others(batcher_for, fake_model, frame):
    model = fake_model(max_batch=2, failure=RuntimeError("out of memory"))
    batcher = batcher_for(model)
    failed = await asyncio.gather(*(batcher.submit(*frame()) for _ in range(2)), return_exceptions=True)
    assert [str(error) for error in failed] == ["out of memory"] * 2
    model.failure = None
    assert (await batcher.submit(*frame(7))).found.scores[0] == 7


async def test_a_frame_whose_caller_left_is_not_run(batcher_for, fake_model, frame):
    model = fake_model(max_batch=8)
    model.may_run.clear()
    batcher = batcher_for(model)
    first = asyncio.create_task(batcher.submit(*frame()))
    await entered(model)
    leaving = asyncio.create_task(batcher.submit(*frame()))
    staying = asyncio.create_task(batcher.submit(*frame()))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    model.may_run.set()
    await asyncio.gather(first, staying)
    assert model.batches == [1, 1]


async def test_a_caller_that_leaves_in_the_middle_waits_until_its_pixels_are_free(batcher_for, fake_model, frame):
    model = fake_model()
    model.may_run.clear()
    batcher = batcher_for(model)
    leaving = asyncio.create_task(batcher.submit(*frame()))
    await entered(model)
    leaving.cancel()
    done, _ = await asyncio.wait({leaving}, timeout=0.05)
    assert not done
    model.may_run.set()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert model.batches == [1]
