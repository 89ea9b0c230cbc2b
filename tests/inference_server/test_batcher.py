"""Frames of many callers, run together."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore, get_ident

import numpy as np
import pytest
from demo import models
from prometheus_client import REGISTRY

from inference_server import pace
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


@pytest.mark.parametrize("include_outputs", [True, False])
async def test_outputs_without_the_rows_that_were_promised_fail_who_waits_for_them(
    batcher_for, fake_model, frame, monkeypatch, include_outputs
):
    model = fake_model(max_batch=2)
    monkeypatch.setattr(model, "run_rows", lambda *_: {"output0": np.float32(1)})
    batcher = batcher_for(model)
    with pytest.raises(IndexError):
        await batcher.submit(*frame(), include_outputs=include_outputs)
    with pytest.raises(IndexError):
        await batcher.submit_tensors({"frames": frame()[0][None]}, 1)


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


@pytest.fixture
def anything_is_quick(monkeypatch):
    """However busy the machine is."""
    monkeypatch.setattr(pace, "QUICK_SECONDS", 1e6)
    monkeypatch.setattr(pace, "SLOW_SECONDS", 1e6)


def frame_shapes(model):
    return ((model.frames_input, (1, model.layout.height, model.layout.width, 3)),)


def prove(batcher, *arrays):
    """Let the batcher know that frames, or tensors like `arrays`, are over at once."""
    shapes = tuple(("frames", array.shape) for array in arrays) or frame_shapes(batcher._model)
    for _ in range(pace.PROOF):
        batcher._pace.learn(shapes, pace.QUICK_SECONDS / 2)


def is_free(batcher):
    """Whether no run has the turn of the versions."""
    if free := batcher._turns.acquire(blocking=False):
        batcher._turns.release()
    return free


async def test_what_is_known_to_be_over_at_once_is_run_where_it_is(batcher_for, fake_model, frame):
    model = fake_model(max_batch=4)
    batcher = batcher_for(model)
    before = counted("videoai_batch_size_count")
    prove(batcher)
    assert (await batcher.submit(*frame(3))).found.scores[0] == 3
    pixels = np.stack([frame(5)[0], frame(6)[0]])
    prove(batcher, pixels)
    await asyncio.sleep(0)
    assert (await batcher.submit_tensors({"frames": pixels}, 2)).outputs["output0"].tolist() == [[5], [6]]
    assert model.threads == [get_ident(), get_ident()]
    assert model.batches == [1, 2]
    assert counted("videoai_batch_size_count") == before + 2
    assert is_free(batcher)


async def test_its_outputs_are_those_that_are_asked_for(batcher_for, fake_model, frame):
    batcher = batcher_for(fake_model())
    prove(batcher)
    assert (await batcher.submit(*frame(3), include_outputs=True)).outputs["output0"].tolist() == [3]
    prove(batcher, frame()[0][None])
    await asyncio.sleep(0)
    assert not (await batcher.submit_tensors({"frames": frame(3)[0][None]}, 1, outputs=["other"])).outputs


@pytest.mark.usefixtures("anything_is_quick")
async def test_that_is_learnt_from_runs_in_a_thread_by_shape(batcher_for, fake_model, frame):
    model = fake_model(max_batch=2)
    batcher = batcher_for(model)
    for value in range(pace.PROOF):
        await batcher.submit(*frame(value))
    assert get_ident() not in model.threads
    await batcher.submit(*frame())
    assert model.threads[pace.PROOF :] == [get_ident()]
    await asyncio.sleep(0)
    await batcher.submit_tensors({"frames": np.zeros((2, 4, 4, 3), np.uint8)}, 2)
    assert model.threads[-1] != get_ident()


async def test_a_run_that_turns_out_slow_is_the_last_one_there(batcher_for, fake_model, frame, monkeypatch):
    model = fake_model()
    batcher = batcher_for(model)
    prove(batcher)
    monkeypatch.setattr(pace, "SLOW_SECONDS", -1.0)
    for _ in range(2):
        await batcher.submit(*frame())
        await asyncio.sleep(0)
    assert model.threads[0] == get_ident()
    assert model.threads[1] != get_ident()


@pytest.mark.parametrize("runs", [1, 2])
async def test_nothing_is_run_there_while_another_run_is_under_way(fake_model, frame, runs):
    model = fake_model()
    model.may_run.clear()
    with ThreadPoolExecutor(runs + 1) as executor:
        batcher = Batcher(model, executor, Semaphore(runs), runs=runs)
        first = asyncio.create_task(batcher.submit(*frame(1)))
        await entered(model)
        prove(batcher)
        second = asyncio.create_task(batcher.submit(*frame(2)))
        await asyncio.sleep(0)
        model.may_run.set()
        await asyncio.gather(first, second)
    assert sorted(model.values) == [[1], [2]]
    assert get_ident() not in model.threads


async def test_nothing_is_run_there_while_another_version_has_the_turn(batcher_for, fake_model, frame):
    old, new = fake_model(1), fake_model(2)
    old.may_run.clear()
    waiting, batcher = batcher_for(old), batcher_for(new)
    first = asyncio.create_task(waiting.submit(*frame(1)))
    await entered(old)
    prove(batcher)
    second = asyncio.create_task(batcher.submit(*frame(2)))
    await asyncio.sleep(0)
    assert new.batches == []
    old.may_run.set()
    await asyncio.gather(first, second)
    assert get_ident() not in new.threads
    await asyncio.sleep(0)
    prove(batcher)
    await batcher.submit(*frame(3))
    assert new.threads[-1] == get_ident()


async def test_what_comes_at_once_is_left_to_batches(batcher_for, fake_model, frame):
    model = fake_model(max_batch=4)
    batcher = batcher_for(model)
    prove(batcher)
    answers = await asyncio.gather(*(batcher.submit(*frame(value)) for value in range(5)))
    assert [int(answer.found.scores[0]) for answer in answers] == list(range(5))
    assert model.threads[0] == get_ident()
    assert get_ident() not in model.threads[1:]


async def test_after_a_batch_of_several_one_is_run_in_a_thread_before_others_are_run_here(
    batcher_for, fake_model, frame
):
    model = fake_model(max_batch=2)
    batcher = batcher_for(model)
    with batcher._turns:
        together = [asyncio.create_task(batcher.submit(*frame())) for _ in range(2)]
        await asyncio.sleep(0)
    await asyncio.gather(*together)
    assert model.batches == [2]
    for _ in range(2):
        prove(batcher)
        await batcher.submit(*frame())
    assert [thread == get_ident() for thread in model.threads] == [False, False, True]


async def test_a_deadline_that_has_passed_is_not_run_there_either(batcher_for, fake_model, frame):
    model = fake_model()
    batcher = batcher_for(model)
    prove(batcher)
    before = counted("videoai_queue_expired_total")
    with pytest.raises(DeadlinePassed):
        await batcher.submit(*frame(), turn=Turn(deadline=time.monotonic() - 1))
    assert model.batches == []
    assert counted("videoai_queue_expired_total") == before + 1
    assert is_free(batcher)
    await asyncio.sleep(0)
    await batcher.submit(*frame(), turn=Turn(deadline=time.monotonic() + 600))
    assert model.threads == [get_ident()]


async def test_a_failure_there_is_the_callers_and_has_to_be_made_good(batcher_for, fake_model, frame):
    model = fake_model(failure=RuntimeError("out of memory"))
    batcher = batcher_for(model)
    prove(batcher)
    with pytest.raises(RuntimeError, match="out of memory"):
        await batcher.submit(*frame())
    assert model.threads == [get_ident()]
    assert is_free(batcher)
    model.failure = None
    await asyncio.sleep(0)
    assert (await batcher.submit(*frame(7))).found.scores[0] == 7
    assert model.threads[1] != get_ident()


@pytest.mark.usefixtures("anything_is_quick")
async def test_runs_that_fail_prove_nothing(batcher_for, fake_model, frame):
    """They may be over at once where others are not."""
    model = fake_model(failure=RuntimeError("wrong"))
    batcher = batcher_for(model)
    for _ in range(2 * pace.PROOF):
        with pytest.raises(RuntimeError, match="wrong"):
            await batcher.submit(*frame())
    model.failure = None
    await batcher.submit(*frame())
    assert get_ident() not in model.threads


async def test_an_answer_that_cannot_be_read_there_fails_its_caller(batcher_for, fake_model, frame):
    model = fake_model()
    batcher = batcher_for(model)
    prove(batcher)

    def decode(*_):
        raise ZeroDivisionError

    model.family.decode = decode
    with pytest.raises(ZeroDivisionError):
        await batcher.submit(*frame())
    assert model.threads == [get_ident()]
    assert is_free(batcher)


async def test_the_turn_is_given_back_whatever_ends_the_run(batcher_for, fake_model, frame):
    class Interrupted(BaseException):
        pass

    def run_rows(*_):
        raise Interrupted

    model = fake_model()
    model.run_rows = run_rows
    batcher = batcher_for(model)
    prove(batcher)
    with pytest.raises(Interrupted):
        batcher.ask(*frame())
    assert is_free(batcher)


async def test_what_was_run_there_can_not_be_withdrawn(batcher_for, fake_model, frame):
    batcher = batcher_for(fake_model())
    prove(batcher)
    job = batcher.ask(*frame(4), turn=Turn(deadline=time.monotonic() + 600))
    assert job.answer.done()
    assert not batcher.withdraw(job)
    assert (await batcher.wait(job)).found.scores[0] == 4


async def test_the_model_is_told_of_each_row_that_comes_alone(batcher_for, fake_model, frame):
    """On a device it may use a smaller size of batch then."""
    model = fake_model(max_batch=4)
    told = []
    model.room = lambda waiting: told.append(waiting) or 4
    batcher = batcher_for(model)
    prove(batcher)
    await batcher.submit(*frame())
    assert told == [1]
    assert model.threads == [get_ident()]
