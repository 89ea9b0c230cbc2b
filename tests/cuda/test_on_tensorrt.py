"""What only TensorRT on a CUDA device can show: the same answers as on the CPU, its own provider, and kept engines."""

import numpy as np
import pytest
import yolo_sized

from inference_server.engine import Device, ModelVersion, PreparedModels, choose_device, load
from inference_server.errors import DeviceUnavailable

pytestmark = pytest.mark.cuda
SIZE = 256


@pytest.fixture(scope="module")
def tensorrt():
    try:
        return choose_device("tensorrt")
    except DeviceUnavailable as error:
        pytest.skip(f"no TensorRT: {error}")


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def pair(request, tensorrt, tmp_path_factory):
    """One file on both devices, and how far apart their scores may be."""
    path = yolo_sized.write(tmp_path_factory.mktemp("yolo") / "m.onnx", fp16=request.param == "fp16", size=SIZE)
    keep = PreparedModels(tmp_path_factory.mktemp("prepared"), 1 << 31)
    models = [load(ModelVersion("yolo", 1, path), device, prepared=keep) for device in (tensorrt, Device("cpu"))]
    yield *models, 1e-2 if request.param == "fp32" else 3e-2  # fp32 is TF32 on TensorRT
    for model in models:
        model.close()


def frames_of(count):
    return list(np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_padded_and_bound_batches_answer_as_the_cpu_does(pair, count):
    on_tensorrt, on_cpu, tolerance = pair
    frames = frames_of(count)
    for found, expected in zip(on_tensorrt.run(frames), on_cpu.run(frames), strict=True):
        one, other = found["output0"].astype(np.float32), expected["output0"].astype(np.float32)
        np.testing.assert_allclose(one[4:], other[4:], atol=tolerance)
        np.testing.assert_allclose(one[:4], other[:4], atol=SIZE * tolerance)


def test_pictures_as_the_file_had_them_answer_as_frames_do(pair):
    on_tensorrt, _, tolerance = pair
    frame = frames_of(1)[0]
    picture = on_tensorrt.ports.inputs[0]
    kind = np.dtype(picture.dtype).type
    exported = (frame.transpose(2, 0, 1)[None] / 255).astype(kind)
    by_name = on_tensorrt.run_rows([{picture.name: exported}])["output0"][0].astype(np.float32)
    np.testing.assert_allclose(by_name[4:], on_tensorrt.run([frame])[0]["output0"][4:], atol=tolerance)


def test_the_session_runs_on_tensorrt_as_it_was_told_to(pair):
    session = pair[0]._session
    assert (pair[0].device, pair[0].provider) == ("tensorrt:0", "TensorrtExecutionProvider")
    assert session.get_providers() == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    options = session.get_provider_options()["TensorrtExecutionProvider"]
    half = pair[0].ports.inputs[0].dtype == "float16"
    assert options["trt_fp16_enable"] == ("1" if half else "0")
    assert options["trt_engine_cache_enable"] == "1"


def test_engines_are_kept_for_the_next_load_and_damaged_ones_are_not_used(tensorrt, tmp_path):
    path = yolo_sized.write(tmp_path / "m.onnx", size=SIZE)
    version, keep = ModelVersion("yolo", 1, path), PreparedModels(tmp_path / "prepared", 1 << 31)
    first = load(version, tensorrt, max_batch=2, prepared=keep)
    expected = first.run(frames_of(2))[1]["output0"].copy()
    first.close()
    entries = {entry: entry.read_bytes() for entry in (tmp_path / "prepared").iterdir()}
    assert any(b".engine" in content for content in entries.values())
    again = load(version, tensorrt, max_batch=2, prepared=keep)
    np.testing.assert_array_equal(again.run(frames_of(2))[1]["output0"], expected)
    again.close()
    assert {entry: entry.read_bytes() for entry in entries} == entries
    for entry, content in entries.items():
        entry.write_bytes(content[:-1])
    load(version, tensorrt, max_batch=2, prepared=keep).close()
    assert all(entry.read_bytes() != entries[entry][:-1] for entry in entries)
