import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from structlog.testing import capture_logs

from inference_server.engine import Device, load
from inference_server.engine import model as model_module


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def frames_of(count):
    return [noise(32, 48, 3, seed=seed) for seed in range(count)]


def test_a_loaded_version_says_what_it_is(version_of, small_detector):
    version = version_of(small_detector())
    model = load(version, Device("cpu"))
    digest = hashlib.sha256(version.path.read_bytes()).hexdigest()
    assert (model.sha256, model.version.sha256) == (digest, digest)
    assert (model.version.model_name, model.version.version) == ("thing", 1)
    assert (model.device, model.provider, model.max_batch) == ("cpu", "CPUExecutionProvider", 1)
    assert (model.layout.width, model.layout.height, model.family.class_names) == (48, 32, ("a", "b"))


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_a_batch_answers_each_frame_as_if_it_were_alone(loaded, small_detector, count):
    model = loaded(small_detector(batch="batch"), max_batch=6)
    assert model.max_batch == 6
    frames = frames_of(count)
    batched = model.run(frames)
    assert len(batched) == count
    for frame, outputs in zip(frames, batched, strict=True):
        np.testing.assert_allclose(outputs["output0"], model.run([frame])[0]["output0"], atol=1e-6)


def test_a_fixed_batch_is_filled_up(loaded, small_detector):
    model = loaded(small_detector(batch=4))
    assert model.max_batch == 4
    alone = loaded(small_detector())
    for count in (1, 3, 4):
        for frame, outputs in zip(frames_of(count), model.run(frames_of(count)), strict=True):
            np.testing.assert_allclose(outputs["output0"], alone.run([frame])[0]["output0"], atol=1e-6)


def test_a_model_that_only_claims_to_take_any_batch_runs_frames_one_by_one(loaded, small_detector):
    with capture_logs() as logs:
        model = loaded(small_detector(batch="batch", fixed_batch=1))
    assert model.max_batch == 1
    assert [entry["max_batch"] for entry in logs if entry["event"] == "batches limited"] == [1]
    assert len(model.run(frames_of(1))) == 1


@pytest.mark.parametrize("count", [0, 3])
def test_more_frames_than_agreed_are_an_error(loaded, small_detector, count):
    with pytest.raises(ValueError, match=rf"expected 1\.\.2, got {count}"):
        loaded(small_detector(batch="batch"), max_batch=2).run(frames_of(count))


def test_a_single_frame_is_not_copied(loaded, small_detector, monkeypatch):
    model, frame, seen = loaded(small_detector()), noise(32, 48, 3), []
    run = model._run
    monkeypatch.setattr(model, "_run", lambda inputs, names: seen.append(inputs) or run(inputs, names))
    model.run([frame])
    given = seen[0]["frames"].joined()
    assert np.shares_memory(given, frame)
    assert given.shape == (1, 32, 48, 3)


def test_many_threads_may_run_at_once(loaded, small_detector):
    model = loaded(small_detector(batch="batch"))
    frames = frames_of(8)
    expected = [model.run([frame])[0]["output0"].copy() for frame in frames]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda index: model.run([frames[index % 8]])[0]["output0"], range(64)))
    for index, answer in enumerate(answers):
        np.testing.assert_allclose(answer, expected[index % 8], atol=1e-6)


def test_a_closed_model_says_so_and_may_be_closed_twice(loaded, small_detector):
    model = loaded(small_detector())
    model.close()
    model.close()
    with pytest.raises(RuntimeError, match="closed"):
        model.run(frames_of(1))


@pytest.mark.parametrize(("largest", "sizes"), [(1, []), (2, [2]), (6, [2, 4, 6]), (8, [2, 4, 8])])
def test_the_batch_sizes_that_are_rehearsed(largest, sizes):
    assert model_module._larger_sizes(largest) == sizes


def test_the_session_is_told_how_many_threads_to_use(loaded, small_detector, monkeypatch):
    monkeypatch.setattr("inference_server.engine.session.usable_cpus", lambda: 3)
    options = loaded(small_detector())._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_memory_stays_level_over_reloads(demo_files):
    process = psutil.Process()
    levels = []
    for round_ in range(40):
        model = load(model_module.ModelVersion("shapes", 2, demo_files[2]), Device("cpu"), max_batch=2)
        model.run([np.zeros((448, 448, 3), np.uint8)])
        model.close()
        del model
        if round_ >= 10:
            levels.append(process.memory_info().rss)
    print("MiB:", [round(level / 2**20, 1) for level in levels])
    assert np.median(levels[-10:]) < np.median(levels[:10]) + 4 * 2**20


def test_nothing_is_said_on_the_standard_streams(version_of, small_detector, capfd):
    model = small_detector(batch="batch", fixed_batch=1)  # its second rehearsal fails, which ONNX Runtime logs
    with capture_logs():
        load(version_of(model), Device("cpu")).close()
    assert capfd.readouterr() == ("", "")
