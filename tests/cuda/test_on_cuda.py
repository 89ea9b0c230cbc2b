"""What only a CUDA device can show: the same answers as on the CPU, bound and padded, and never another provider."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np
import pytest
import yolo_sized

from inference_server.batcher import Batcher
from inference_server.detection import Options, place
from inference_server.engine import Device, ModelVersion, choose_device, load
from inference_server.errors import DeviceUnavailable

pytestmark = pytest.mark.cuda
SIZE = 256  # so large that anchors are chosen on the device


@pytest.fixture(scope="module")
def cuda():
    try:
        return choose_device("cuda")
    except DeviceUnavailable as error:
        pytest.skip(f"no CUDA device: {error}")


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def pair(request, cuda, tmp_path_factory):
    """One file on both devices, and how far apart their scores may be."""
    path = yolo_sized.write(tmp_path_factory.mktemp("yolo") / "m.onnx", fp16=request.param == "fp16", size=SIZE)
    models = [load(ModelVersion("yolo", 1, path), device, max_batch=8) for device in (cuda, Device("cpu"))]
    yield *models, 1e-3 if request.param == "fp32" else 1e-2
    for model in models:
        model.close()


def frames_of(count):
    return list(np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_padded_and_bound_batches_answer_as_the_cpu_does(pair, count):
    on_cuda, on_cpu, tolerance = pair
    frames = frames_of(count)
    for found, expected in zip(on_cuda.run(frames), on_cpu.run(frames), strict=True):
        one, other = found["output0"].astype(np.float32), expected["output0"].astype(np.float32)
        np.testing.assert_allclose(one[4:], other[4:], atol=tolerance)
        np.testing.assert_allclose(one[:4], other[:4], atol=SIZE * tolerance)


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.25, 0.9])
def test_chosen_anchors_tell_what_all_of_them_do(pair, threshold):
    on_cuda, *_ = pair
    assert on_cuda._head is not None
    where, options = place(on_cuda.layout, SIZE, SIZE), Options(confidence_threshold=threshold)
    ran = on_cuda.run_rows([{on_cuda.frames_input: frame[None]} for frame in frames_of(3)], on_cuda.read_outputs)
    assert "output0" not in ran
    for row in range(3):
        found = on_cuda.read(ran, row, where, options)
        expected = on_cuda.family.decode({"output0": ran["output0"][row]}, where, options)
        for name in ("boxes", "scores", "class_ids"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_half_precision_stays_half(pair):
    on_cuda, on_cpu, _ = pair
    kinds = {model.run(frames_of(1))[0]["output0"].dtype for model in (on_cuda, on_cpu)}
    assert len(kinds) == 1


def test_the_session_runs_on_cuda_and_would_not_fall_back(pair):
    session = pair[0]._session
    assert session.get_providers()[0] == "CUDAExecutionProvider"
    assert not session._enable_fallback
    options = session.get_provider_options()["CUDAExecutionProvider"]
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["arena_extend_strategy"] == "kSameAsRequested"


def test_outputs_of_an_earlier_run_stay_as_they_are(pair):
    on_cuda, *_ = pair
    first = on_cuda.run(frames_of(2))[0]["output0"]
    before = first.copy()
    on_cuda.run(frames_of(3))
    np.testing.assert_array_equal(first, before)


async def test_many_callers_get_their_own_answers(pair):
    on_cuda, on_cpu, tolerance = pair
    where, options = place(on_cuda.layout, SIZE, SIZE), Options(confidence_threshold=0.0, max_detections=5)
    frames = frames_of(20)
    with ThreadPoolExecutor(2) as executor:
        batcher = Batcher(on_cuda, executor, Lock())
        answers = await asyncio.gather(
            *(batcher.submit(frame, where, options, include_outputs=True) for frame in frames)
        )
    for frame, answer in zip(frames, answers, strict=True):
        expected = on_cpu.run([frame])[0]["output0"].astype(np.float32)
        np.testing.assert_allclose(answer.outputs["output0"].astype(np.float32)[4:], expected[4:], atol=tolerance)


def test_memory_is_limited_where_that_is_asked(cuda, tmp_path):
    path = yolo_sized.write(tmp_path / "m.onnx", size=SIZE)
    limited = Device("cuda", cuda.index, memory_limit=1 << 30)
    model = load(ModelVersion("yolo", 1, path), limited, max_batch=2)
    assert model._session.get_provider_options()["CUDAExecutionProvider"]["gpu_mem_limit"] == str(1 << 30)
    model.close()
