"""What only a CUDA device can show: the same answers as on the CPU, bound and padded, and never another provider."""

import asyncio
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Semaphore

import numpy as np
import onnxruntime
import pytest

from inference_server.batcher import Batcher
from inference_server.detection import Options, place
from inference_server.engine import load, pinning
from inference_server.engine.cuda import driver
from inference_server.engine.stacks import Stack

pytestmark = pytest.mark.cuda
KIND = "cuda"


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_padded_and_bound_batches_answer_as_the_cpu_does(pair, count):
    pair.check(count)


@pytest.mark.parametrize("access", [mmap.ACCESS_READ, mmap.ACCESS_WRITE])
@pytest.mark.parametrize("pinned", [False, True])
def test_frames_and_zeros_reach_the_device(device, access, pinned):
    fd = os.memfd_create("frames")
    os.write(fd, np.random.default_rng(0).bytes(1 << 20))
    memory = np.frombuffer(mmap.mmap(fd, 1 << 20, access=access), np.uint8)
    os.close(fd)
    unpin = pinning(device)(memory) if pinned else lambda: None
    parts = [memory[start : start + 3000].reshape(1, 3000) for start in (5000, 0, 700_001)]
    stack = Stack.of(parts, missing=2)
    buffer = onnxruntime.OrtValue.ortvalue_from_numpy(np.full(stack.shape, 7, np.uint8), "cuda", device.index)
    driver(device.index).fill(buffer, stack)
    np.testing.assert_array_equal(buffer.numpy(), stack.joined())
    unpin()
    driver(device.index).fill(buffer, Stack.of(parts[:1], missing=4))
    np.testing.assert_array_equal(buffer.numpy()[:1], parts[0])
    assert not buffer.numpy()[1:].any()


def test_what_fills_a_batch_up_is_nobodys_frame(pair):
    model, frame = pair.on_device, pair.frames(1)[0]
    blank = model.run_rows([{model.frames_input: np.zeros((8, *frame.shape), np.uint8)}])["output0"][1]
    model.run(pair.frames(8))
    after = model.run_rows([{model.frames_input: frame[None]}])["output0"]
    assert all(np.allclose(row[4:], blank[4:], atol=pair.tolerance) for row in after[1:])


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.25, 0.9])
def test_chosen_anchors_tell_what_all_of_them_do(pair, threshold):
    on_cuda = pair.on_device
    assert on_cuda._head is not None
    where, options = place(on_cuda.layout, pair.size, pair.size), Options(confidence_threshold=threshold)
    ran = on_cuda.run_rows([{on_cuda.frames_input: frame[None]} for frame in pair.frames(3)], on_cuda.read_outputs)
    assert "output0" not in ran
    for row in range(3):
        found = on_cuda.read(ran, row, where, options)
        expected = on_cuda.family.decode({"output0": ran["output0"][row]}, where, options)
        for name in ("boxes", "scores", "class_ids"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_half_precision_stays_half(pair):
    kinds = {model.run(pair.frames(1))[0]["output0"].dtype for model in (pair.on_device, pair.on_cpu)}
    assert kinds == {np.dtype(np.float16 if pair.half else np.float32)}


def test_the_session_runs_on_cuda_and_would_not_fall_back(pair):
    session = pair.on_device._session
    assert session.get_providers()[0] == "CUDAExecutionProvider"
    assert not session._enable_fallback
    options = session.get_provider_options()["CUDAExecutionProvider"]
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["arena_extend_strategy"] == "kSameAsRequested"


def test_outputs_of_an_earlier_run_stay_as_they_are(pair):
    first = pair.on_device.run(pair.frames(2))[0]["output0"]
    before = first.copy()
    pair.on_device.run(pair.frames(3))
    np.testing.assert_array_equal(first, before)


async def test_many_callers_get_their_own_answers(pair):
    where = place(pair.on_device.layout, pair.size, pair.size)
    options, frames = Options(confidence_threshold=0.0, max_detections=5), pair.frames(20)
    with ThreadPoolExecutor(2) as executor:
        batcher = Batcher(pair.on_device, executor, Semaphore(1))
        answers = await asyncio.gather(
            *(batcher.submit(frame, where, options, include_outputs=True) for frame in frames)
        )
    for frame, answer in zip(frames, answers, strict=True):
        expected = pair.on_cpu.run([frame])[0]["output0"].astype(np.float32)
        np.testing.assert_allclose(answer.outputs["output0"].astype(np.float32)[4:], expected[4:], atol=pair.tolerance)


def test_memory_is_limited_where_that_is_asked(device, write_model):
    model = load(write_model(), replace(device, memory_limit=1 << 30), max_batch=2)
    assert model._session.get_provider_options()["CUDAExecutionProvider"]["gpu_mem_limit"] == str(1 << 30)
    model.close()
