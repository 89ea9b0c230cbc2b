"""A file that was loaded before is put into memory as it was left; whatever is wrong with that is made anew."""

import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from answers import answer
from structlog.testing import capture_logs

from inference_server.cpus import STEPS_DOWN
from inference_server.detection import GraphSignature
from inference_server.engine import Device, PreparedModels, load, loading, session
from inference_server.engine import prepared as prepared_module
from inference_server.errors import ModelRefused

CPU = Device("cpu")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "prepared"


@pytest.fixture
def read_models(monkeypatch):
    """Which files were parsed, each time they were."""
    seen, read = [], loading.read_model
    monkeypatch.setattr(loading, "read_model", lambda version: seen.append(version.path) or read(version))
    return seen


def entries(folder):
    return sorted(folder.glob("*"))


@pytest.mark.parametrize("batch", [1, "batch", 4])
def test_a_later_load_answers_the_same_without_parsing_the_file(version_of, small_detector, folder, read_models, batch):
    version, keep = version_of(small_detector(batch=batch)), PreparedModels(folder, 1 << 30)
    first = load(version, CPU, prepared=keep)
    later = load(version, CPU, prepared=PreparedModels(folder, 1 << 30))
    assert len(read_models) == 1
    for one in (first, later):
        assert (one.sha256, one.max_batch, one.batch) == (later.sha256, later.max_batch, later.batch)
        assert one.family == later.family
    direct = answer(load(version, CPU))
    np.testing.assert_array_equal(answer(first), answer(later))
    np.testing.assert_allclose(answer(load(version, CPU, prepared=keep)), direct, atol=1e-6)


def test_what_rehearsals_showed_is_kept_too(version_of, small_detector, folder):
    version, keep = version_of(small_detector(batch="batch", fixed_batch=1)), PreparedModels(folder, 1 << 30)
    with capture_logs() as logs:
        sizes = [load(version, CPU, prepared=keep).max_batch for _ in range(2)]
    assert sizes == [1, 1]
    assert [entry["event"] for entry in logs].count("batches limited") == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"\x00" * 1000),
        lambda path: path.write_bytes(b"{}\n"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"max_batch": 1', b'"max_batch": "x"')),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"output0"', b'7', 1)),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)  # fmt: skip
def test_a_damaged_entry_is_ignored_and_made_anew(version_of, small_detector, folder, read_models, damage):
    version, keep = version_of(small_detector()), PreparedModels(folder, 1 << 30)
    expected = answer(load(version, CPU, prepared=keep))
    damage(entries(folder)[0])
    with capture_logs() as logs:
        np.testing.assert_array_equal(answer(load(version, CPU, prepared=keep)), expected)
    assert "prepared model ignored" in [entry["event"] for entry in logs]
    assert len(read_models) == 2


def test_an_entry_whose_graph_is_none_is_made_anew(version_of, small_detector, folder, read_models):
    version, keep = version_of(small_detector()), PreparedModels(folder, 1 << 30)
    answer(load(version, CPU, prepared=keep))
    path = entries(folder)[0]
    head = json.loads(path.read_bytes().split(b"\n")[1])
    entered = prepared_module.Entries(**head["entries"])
    junk = prepared_module.Prepared(prepared_module._signature(head["signature"]), entered, 1, (b"junk" * 100,))
    keep.keep(head["key"], junk)
    answer(load(version, CPU, prepared=keep))
    answer(load(version, CPU, prepared=keep))
    assert len(read_models) == 2


@pytest.mark.parametrize("changed", ["model", "entry", "runtime", "processor", "code", "batch"])
def test_what_the_result_depends_on_makes_another_entry(
    version_of, small_detector, folder, read_models, monkeypatch, changed
):
    keep, limits = PreparedModels(folder, 1 << 30), {}
    answer(load(version_of(small_detector()), CPU, prepared=keep))
    version = version_of(small_detector(more="metadata") if changed == "model" else small_detector())
    match changed:
        case "entry":
            version = version_of(small_detector(), class_names=["x", "y"])
        case "runtime":
            monkeypatch.setattr("onnxruntime.__version__", "0.0.1")
        case "processor":
            monkeypatch.setattr(prepared_module, "_processor", lambda: "another")
        case "code":
            monkeypatch.setattr(prepared_module, "_code", lambda: "another")
        case "batch":
            limits = {"max_batch": 3}
    answer(load(version, CPU, prepared=keep, **limits))
    assert len(read_models) == len(entries(folder)) == 2


def test_a_file_that_changed_on_disk_is_refused_though_it_was_prepared(version_of, small_detector, folder):
    keep = PreparedModels(folder, 1 << 30)
    version = version_of(small_detector())
    loaded = load(version, CPU, prepared=keep)
    loaded.close()
    version.path.write_bytes(small_detector(other="file").SerializeToString())
    with pytest.raises(ModelRefused, match="changed on disk"):
        load(loaded.version, CPU, prepared=keep)


def test_a_model_that_is_refused_leaves_nothing(version_of, small_detector, folder):
    with pytest.raises(ModelRefused):
        load(version_of(b"no model"), CPU, prepared=PreparedModels(folder, 1 << 30))
    assert not folder.exists()


def test_the_folder_is_bounded_and_what_was_used_last_stays(version_of, small_detector, folder):
    unbounded = PreparedModels(folder, 1 << 30)
    for name in "ab":
        answer(load(version_of(small_detector(name=name)), CPU, prepared=unbounded))
    sizes = [path.stat().st_size for path in entries(folder)]
    keep = PreparedModels(folder, sum(sizes) + 10)
    for age, path in enumerate(entries(folder)):
        os.utime(path, (1000 - age, 1000 - age))
    a = entries(folder)[0], entries(folder)[1]
    answer(load(version_of(small_detector(name="c")), CPU, prepared=keep))
    assert a[0] in entries(folder)
    assert a[1] not in entries(folder)
    assert len(entries(folder)) == 2
    PreparedModels(folder, 10).keep("f" * 64, prepared_module.Prepared(GraphSignature((), ()), None, 1, (b"x" * 100,)))
    assert len(entries(folder)) == 2


def test_without_a_folder_to_write_to_models_load_all_the_same(version_of, small_detector, tmp_path):
    (tmp_path / "file").write_text("")
    with capture_logs() as logs:
        answer(load(version_of(small_detector()), CPU, prepared=PreparedModels(tmp_path / "file" / "x", 1 << 30)))
    assert "prepared model not kept" in [entry["event"] for entry in logs]


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_rehearsals_yield_the_cores_with_every_thread_they_have(version_of, small_detector, folder, monkeypatch):
    seen, open_session = [], loading.open_session

    def watched(graph, device, plan):
        before = set(Path("/proc/self/task").iterdir())
        opened = open_session(graph, device, plan)
        after = set(Path("/proc/self/task").iterdir())
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        seen.append((nice, plan.threads, len(after - before) if plan.threads == 1 else None))
        return opened

    monkeypatch.setattr(loading, "open_session", watched)
    monkeypatch.setattr(session, "usable_cpus", lambda: 2)
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    answer(load(version_of(small_detector()), CPU, prepared=PreparedModels(folder, 1 << 30)))
    assert seen == [(min(19, mine + STEPS_DOWN), 1, 0), (mine, None, None)]
