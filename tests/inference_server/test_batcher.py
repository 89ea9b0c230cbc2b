"""Frames of many callers, run together."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Lock, Semaphore

import numpy as np
import pytest
from demo import models
from prometheus_client import REGISTRY

from inference_server.batcher import Batcher
from inference_server.detection import Options, place
from inference_server.engine import Device, ModelVersion, load
from inference_server.errors import DeadlinePassed, InvalidField, QueueFull
from inference_server.fair_queue import Turn


@pytest.fixture
async def batcher_for():
    """A function that makes a batcher over a model."""
    with ThreadPoolExecutor(2) as executor:
        turns = Semaphore(1)
        yield lambda model, **limits: Batcher(model, executor, turns, **limits)


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


async def test_a_real_model_answers_frames_and_tensors_in_one_batch(batcher_for, tmp_path, frame):
    models.build_v2(tmp_path / "model.onnx")
    model = load(ModelVersion("shapes", 2, tmp_path / "model.onnx"), Device("cpu"), max_batch=4)
    batcher, layout = batcher_for(model), model.layout
    pictures = np.random.default_rng(3).integers(0, 256, (4, layout.height, layout.width, 3), np.uint8)
    alone = [model.run([picture])[0]["output0"].copy() for picture in pictures]
    where = place(layout, layout.width, layout.height)
    *frames, tensors = await asyncio.gather(
        *(batcher.submit(picture, where, Options(), include_outputs=True) for picture in pictures[:3]),
        batcher.submit_tensors({"frames": pictures[2:]}, 2, outputs=["output0"]),
    )
    for answer, expected in zip(frames, alone, strict=False):
        np.testing.assert_allclose(answer.outputs["output0"], expected, atol=1e-5)
    np.testing.assert_allclose(tensors.outputs["output0"], alone[2:], atol=1e-5)
    model.close()


@pytest.fixture
async def held(batcher_for, fake_model, frame):
    """A batcher whose session is busy, its model, and a function that submits a frame of a value behind that."""
    model = fake_model(max_batch=2)
    model.may_run.clear()
    batcher = batcher_for(model, max_queue=4)
    first = asyncio.create_task(batcher.submit(*frame()))
    await entered(model)
    tasks = [first]

    async def submit(value, **turn):
        tasks.append(asyncio.create_task(batcher.submit(*frame(value), turn=Turn(**turn))))
        await asyncio.sleep(0)
        return tasks[-1]

    yield batcher, model, submit
    model.may_run.set()
    await asyncio.gather(*tasks, return_exceptions=True)


def counted(name):
    return REGISTRY.get_sample_value(name, {"model_name": "fake"}) or 0


async def test_callers_take_turns(held):
    _, model, submit = held
    greedy = [await submit(value, caller="greedy", bounded=False) for value in range(1, 6)]
    modest = await submit(9, caller="modest")
    model.may_run.set()
    await asyncio.gather(*greedy, modest)
    assert model.values == [[0], [1, 9], [2, 3], [4, 5]]


async def test_urgent_frames_go_first(held):
    _, model, submit = held
    tasks = [await submit(1), await submit(2), await submit(3, priority=5)]
    model.may_run.set()
    await asyncio.gather(*tasks)
    assert model.values == [[0], [3, 1], [2]]


async def test_more_than_may_wait_is_refused_and_streams_are_not(held):
    _, model, submit = held
    before = counted("videoai_queue_rejected_total")
    waiting = [await submit(value) for value in range(4)]
    assert counted("videoai_queue_rows") == 4
    with pytest.raises(QueueFull, match="max-queue: 4 rows wait for model 'fake'"):
        await (await submit(5))
    stream = await submit(6, bounded=False)
    model.may_run.set()
    await asyncio.gather(*waiting, stream)
    assert counted("videoai_queue_rejected_total") == before + 1
    assert counted("videoai_queue_rows") == 0


async def test_a_frame_is_given_up_at_its_deadline_though_the_session_is_busy(held):
    _, model, submit = held
    before = counted("videoai_queue_expired_total")
    late = await submit(1, deadline=time.monotonic() + 0.02)
    patient = await submit(2, deadline=time.monotonic() + 600)
    with pytest.raises(DeadlinePassed):
        await late
    assert not model.may_run.is_set()
    model.may_run.set()
    await patient
    assert model.values == [[0], [2]]
    assert counted("videoai_queue_expired_total") == before + 1


async def test_a_deadline_that_has_passed_is_not_run(batcher_for, fake_model, frame):
    model = fake_model()
    with pytest.raises(DeadlinePassed):
        await batcher_for(model).submit(*frame(), turn=Turn(deadline=time.monotonic() - 1))
    assert model.batches == []


async def test_a_frame_that_the_session_refuses_fails_alone(held):
    _, model, submit = held
    run = model.run_rows

    def run_rows(parts, names=None):
        outputs = run(parts, names)
        if 3 in model.values[-1]:
            raise RuntimeError("three")
        return outputs

    model.run_rows = run_rows
    good, bad = await submit(2), await submit(3)
    model.may_run.set()
    assert (await good).found.scores[0] == 2
    with pytest.raises(RuntimeError, match="three"):
        await bad
    assert model.values == [[0], [2, 3], [2], [3]]


async def test_a_frame_that_cannot_be_read_fails_alone(batcher_for, fake_model, frame):
    model = fake_model(max_batch=4)
    batcher = batcher_for(model)
    read = model.family.decode

    def decode(outputs, placement, options):
        if outputs["output0"][0] == 3:
            raise ZeroDivisionError
        return read(outputs, placement, options)

    model.family.decode = decode
    answers = await asyncio.gather(*(batcher.submit(*frame(value)) for value in range(5)), return_exceptions=True)
    assert [isinstance(answer, ZeroDivisionError) for answer in answers] == [False] * 3 + [True, False]


async def test_tensors_are_run_with_frames_and_get_their_own_rows(held, frame):
    batcher, model, submit = held
    pixels = np.stack([frame(7)[0]])
    tensors = asyncio.create_task(batcher.submit_tensors({"frames": pixels}, 1))
    await asyncio.sleep(0)
    picture = await submit(8)
    model.may_run.set()
    assert (await tensors).outputs["output0"].tolist() == [[7]]
    assert (await picture).found.scores[0] == 8
    assert model.values == [[0], [7, 8]]


async def test_a_request_is_never_split(held, frame):
    batcher, model, submit = held
    single = await submit(1)
    pair = asyncio.create_task(batcher.submit_tensors({"frames": np.stack([frame(2)[0], frame(3)[0]])}, 2))
    await asyncio.sleep(0)
    model.may_run.set()
    await single
    assert (await pair).outputs["output0"].tolist() == [[2], [3]]
    assert model.values == [[0], [1], [2, 3]]


async def test_a_request_of_more_rows_than_the_model_takes_is_refused(batcher_for, fake_model):
    batcher = batcher_for(fake_model(max_batch=2))
    with pytest.raises(InvalidField, match="inputs: expected at most 2 rows"):
        await batcher.submit_tensors({"frames": np.zeros((3, 4, 4, 3), np.uint8)}, 3)


async def test_tensors_of_a_fixed_batch_run_alone(batcher_for, fake_model):
    model = fake_model(max_batch=2, batch=2)
    batcher = batcher_for(model)
    inputs = {"frames": np.zeros((2, 4, 4, 3), np.uint8)}
    await asyncio.gather(*(batcher.submit_tensors(inputs, 2) for _ in range(3)))
    assert model.batches == [2, 2, 2]


async def test_two_versions_take_turns(batcher_for, fake_model, frame):
    running, most = [], []

    def watched(number):
        model = fake_model(number)
        run = model.run_rows

        def run_rows(*arguments):
            running.append(number)
            most.append(len(running))
            time.sleep(0.002)
            running.remove(number)
            return run(*arguments)

        model.run_rows = run_rows
        return model

    old, new = batcher_for(watched(1)), batcher_for(watched(2))
    await asyncio.gather(*(batcher.submit(*frame()) for batcher in (old, new) for _ in range(5)))
    assert most == [1] * 10


async def test_several_batches_run_side_by_side_where_that_pays_and_the_rest_waits(fake_model, frame):
    model = fake_model(max_batch=4)
    model.may_run.clear()
    with ThreadPoolExecutor(3) as executor:
        batcher = Batcher(model, executor, Semaphore(2), runs=2)
        begun = [asyncio.create_task(batcher.submit(*frame(value))) for value in range(2)]
        for _ in begun:
            await entered(model)
        rest = [asyncio.create_task(batcher.submit(*frame(value))) for value in range(2, 5)]
        await asyncio.sleep(0)
        assert not await asyncio.to_thread(model.entered.acquire, True, 0.1), "no third one while two run"
        model.may_run.set()
        answers = await asyncio.gather(*begun, *rest)
    assert [int(answer.found.scores[0]) for answer in answers] == [0, 1, 2, 3, 4]
    assert sorted(model.batches) == [1, 1, 3]
