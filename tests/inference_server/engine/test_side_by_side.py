"""Runs that have a core each go through a session of one thread, once they were seen to."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import yolo_sized

from inference_server.engine import Device, ModelVersion, PreparedModels, device, load, side_by_side
from inference_server.engine.side_by_side import SideBySide


class FakeSession:
    """Answers with its name once it may; `entered` is released for each run that is inside."""

    def __init__(self, name):
        self.name = name
        self.entered = threading.Semaphore(0)
        self.may_run = threading.Event()

    def run(self, names, feeds):
        self.entered.release()
        assert self.may_run.wait(30)
        if "fail" in feeds:
            raise RuntimeError("no")
        return [self.name]


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as executor:
        yield executor


@pytest.fixture
def at_once(monkeypatch):
    """Any time shared is worth a second session."""
    monkeypatch.setattr(side_by_side, "WORTH_SECONDS", 1e-9)


def joined():
    """Wait for the thread that makes the second session."""
    for thread in threading.enumerate():
        if thread.name.startswith("narrow "):
            thread.join(30)


def two_runs(sessions, first, second, pool):
    """A run alone and one beside it: what each answers, given the session that it should be in."""
    for session in (first, second):
        session.may_run.clear()
    begun = [pool.submit(sessions.run, ["y"], {})]
    assert first.entered.acquire(timeout=30)
    begun.append(pool.submit(sessions.run, ["y"], {}))
    assert second.entered.acquire(timeout=30)
    for session in (first, second):
        session.may_run.set()
    return [run.result(30)[0] for run in begun]


def test_only_a_run_that_finds_all_other_cores_taken_is_narrow(pool, at_once):
    wide, narrow = FakeSession("wide"), FakeSession("narrow")
    sessions = SideBySide(wide, 2, lambda: narrow, "model")
    assert two_runs(sessions, wide, wide, pool) == ["wide", "wide"]
    joined()
    assert two_runs(sessions, wide, narrow, pool) == ["wide", "narrow"]
    wide.may_run.set()
    assert sessions.run(["y"], {}) == ["wide"]


def test_runs_that_are_fewer_than_cores_make_no_second_session(pool, at_once):
    wide = FakeSession("wide")
    sessions = SideBySide(wide, 3, lambda: pytest.fail("made"), "model")
    for _ in range(5):
        assert two_runs(sessions, wide, wide, pool) == ["wide", "wide"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("narrow ")]


def test_the_second_session_is_made_once_when_enough_time_was_shared(pool, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(side_by_side, "perf_counter", lambda: next(clock) * 0.1)
    wide, made = FakeSession("wide"), []
    sessions = SideBySide(wide, 2, lambda: made.append("made"), "model")
    counts = []
    for _ in range(12):
        two_runs(sessions, wide, wide, pool)
        joined()
        counts.append(len(made))
    assert counts[0] == 0
    assert counts[-1] == 1


@pytest.mark.parametrize("failure", [MemoryError("none left"), RuntimeError("[ONNXRuntimeError] : 1 : FAIL : no")])
def test_without_a_second_session_the_one_goes_on(pool, at_once, failure, capsys):
    def make():
        raise failure

    wide = FakeSession("wide")
    sessions = SideBySide(wide, 2, make, "model")
    two_runs(sessions, wide, wide, pool)
    joined()
    assert "no second session" in capsys.readouterr().out
    assert two_runs(sessions, wide, wide, pool) == ["wide", "wide"]


def test_an_answer_is_given_where_no_more_threads_can_be_had(pool, at_once, monkeypatch, capsys):
    def start(self):
        raise RuntimeError("can't start new thread")

    wide = FakeSession("wide")
    sessions = SideBySide(wide, 2, lambda: pytest.fail("made"), "model")
    for pause in [pool.submit(time.sleep, 0.05) for _ in range(4)]:  # all threads of the pool are there
        pause.result(30)
    monkeypatch.setattr(side_by_side.threading.Thread, "start", start)
    assert two_runs(sessions, wide, wide, pool) == ["wide", "wide"]
    assert "no second session" in capsys.readouterr().out


def test_a_run_that_failed_is_over(pool, at_once):
    wide, narrow = FakeSession("wide"), FakeSession("narrow")
    sessions = SideBySide(wide, 2, lambda: narrow, "model")
    wide.may_run.set()
    with pytest.raises(RuntimeError, match="no"):
        sessions.run(["y"], {"fail": True})
    assert wide.entered.acquire(timeout=30)
    two_runs(sessions, wide, wide, pool)
    joined()
    wide.may_run.set()
    assert sessions.run(["y"], {}) == ["wide"]


@pytest.mark.parametrize(
    ("kind", "run_threads", "cores", "narrows"),
    [
        ("cpu", None, 1, False),
        ("cpu", None, 2, True),
        ("cpu", None, 4, True),
        ("cpu", None, 5, False),
        ("cpu", 1, 2, False),
        ("cpu", 2, 2, False),
        ("cuda", None, 1, False),
        ("cuda", None, 2, False),
    ],
)
def test_it_is_for_a_processor_with_as_many_runs_as_cores(monkeypatch, kind, run_threads, cores, narrows):
    monkeypatch.setattr(device, "usable_cpus", lambda: cores)
    assert Device(kind, run_threads=run_threads).narrows == narrows


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """A function that loads a detector, prepared in `folder` where there is one, on two cores."""
    monkeypatch.setattr(device, "usable_cpus", lambda: 2)
    path = tmp_path / "yolo.onnx"
    path.write_bytes(yolo_sized.build(size=64).SerializeToString())
    models = []

    def load_it(folder):
        kept = folder and PreparedModels(folder, 1 << 30)
        models.append(load(ModelVersion("yolo", 1, path), Device("cpu"), prepared=kept))
        return models[-1]

    yield load_it
    joined()
    for model in models:
        model.close()


def answers(model, pool, count=40):
    """What four threads are answered for the same frame, by name of the output."""
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (alone,) = model.run([frame])
    for run in [pool.submit(model.run, [frame]) for _ in range(count)]:
        (beside,) = run.result(30)
        for name, array in alone.items():
            np.testing.assert_allclose(beside[name], array, rtol=1e-5, atol=1e-5)


def test_answers_are_the_same_by_either_session(loaded, tmp_path, at_once, pool, capsys):
    model = loaded(tmp_path / "prepared")
    answers(model, pool)
    joined()
    assert "second session" in capsys.readouterr().out
    assert model._session._narrow.get_session_options().intra_op_num_threads == 1
    answers(model, pool)


def test_a_version_that_is_closed_meanwhile_leaves_nothing_behind(loaded, tmp_path, at_once, pool):
    model = loaded(tmp_path / "prepared")
    answers(model, pool)
    model.close()
    joined()
    with pytest.raises(RuntimeError, match="closed"):
        answers(model, pool)


def test_what_is_not_kept_any_more_makes_no_second_session(loaded, tmp_path, at_once, pool):
    model = loaded(tmp_path / "prepared")
    for path in (tmp_path / "prepared").iterdir():
        path.unlink()
    answers(model, pool)
    joined()
    answers(model, pool)
    assert model._session._narrow is None


def test_what_was_not_prepared_has_one_session(loaded, at_once, pool):
    model = loaded(None)
    answers(model, pool)
    assert not isinstance(model._session, SideBySide)
