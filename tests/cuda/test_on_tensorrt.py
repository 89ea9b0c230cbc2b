"""What only TensorRT on a CUDA device can show: the same answers as on the CPU, its own provider, and kept engines."""

import numpy as np
import pytest

from inference_server.engine import PreparedModels, load

pytestmark = pytest.mark.cuda
KIND = "tensorrt"


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_padded_and_bound_batches_answer_as_the_cpu_does(pair, count):
    pair.check(count)


def test_pictures_as_the_file_had_them_answer_as_frames_do(pair):
    on_tensorrt, frame = pair.on_device, pair.frames(1)[0]
    picture = on_tensorrt.ports.inputs[0]
    kind = np.dtype(picture.dtype).type
    exported = (frame.transpose(2, 0, 1)[None] / 255).astype(kind)
    by_name = on_tensorrt.run_rows([{picture.name: exported}])["output0"][0].astype(np.float32)
    np.testing.assert_allclose(by_name[4:], on_tensorrt.run([frame])[0]["output0"][4:], atol=pair.tolerance)


def test_the_session_runs_on_tensorrt_as_it_was_told_to(pair):
    session = pair.on_device._session
    assert (pair.on_device.device, pair.on_device.provider) == ("tensorrt:0", "TensorrtExecutionProvider")
    assert session.get_providers() == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    options = session.get_provider_options()["TensorrtExecutionProvider"]
    assert options["trt_fp16_enable"] == ("1" if pair.half else "0")
    assert options["trt_engine_cache_enable"] == "1"


def test_engines_are_kept_for_the_next_load_and_damaged_ones_are_not_used(device, write_model, tmp_path):
    version, keep = write_model(), PreparedModels(tmp_path / "prepared", 1 << 31)
    frames = list(np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8))
    first = load(version, device, max_batch=2, prepared=keep)
    expected = first.run(frames)[1]["output0"].copy()
    first.close()
    entries = {entry: entry.read_bytes() for entry in (tmp_path / "prepared").iterdir()}
    assert any(b".engine" in content for content in entries.values())
    again = load(version, device, max_batch=2, prepared=keep)
    np.testing.assert_array_equal(again.run(frames)[1]["output0"], expected)
    again.close()
    assert {entry: entry.read_bytes() for entry in entries} == entries
    for entry, content in entries.items():
        entry.write_bytes(content[:-1])
    load(version, device, max_batch=2, prepared=keep).close()
    assert all(entry.read_bytes() != entries[entry][:-1] for entry in entries)
