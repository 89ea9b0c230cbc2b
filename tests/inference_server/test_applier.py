"""A version that is never done loading holds nobody up who wants another."""

import asyncio
import threading
from dataclasses import replace
from functools import partial

import pytest
from demo import models
from endless import write_endless

from inference_server import applier as applier_module
from inference_server.applier import Applier
from inference_server.cache import Held
from inference_server.engine import Device, ModelVersion, PreparedModels, Standby, load
from inference_server.follower import Aim
from inference_server.serving import ServedModel, ServedModels
from inference_server.state import Announcement, StateFile

NAME = "thing"


class OnVolume:
    """Every file is where its version says."""

    async def find(self, version, superseded):
        return Held(version.path)

    async def close(self):
        pass


@pytest.fixture
def aim(tmp_path):
    """What a follower aims at: a version that never answers. It says when its load has begun."""
    write_endless(tmp_path / "endless.onnx")
    attributes = {"videoai": {"family": "tensors"}}
    version = ModelVersion(NAME, 1, tmp_path / "endless.onnx", attributes=attributes)
    return Aim(Announcement(version, 1), lambda: None)


@pytest.fixture
async def applier(tmp_path):
    made = Applier(
        ServedModels(),
        OnVolume(),
        partial(load, device=Device("cpu"), prepared=PreparedModels(tmp_path / "prepared", 1 << 30)),
        StateFile(tmp_path / "state.json"),
        on_ready=lambda ready: None,
        standby=Standby(),
    )
    yield made
    await made.close()


@pytest.fixture
async def served():
    served = ServedModel(NAME)
    yield served
    await served.close()


@pytest.fixture
def preparing(monkeypatch):
    """Set once another process prepares a version."""
    begun, start = threading.Event(), applier_module.Apart._begin

    def watched(apart):
        process = start(apart)
        begun.set()
        return process

    monkeypatch.setattr(applier_module.Apart, "_begin", watched)
    return begun


@pytest.fixture
def small_version(tmp_path):
    """One that is soon prepared."""
    models.build_v1(tmp_path / "small.onnx")
    return ModelVersion(NAME, 2, tmp_path / "small.onnx")


async def test_what_is_superseded_is_given_up_after_a_while(applier, served, aim, preparing, monkeypatch):
    monkeypatch.setattr(applier_module, "FINISH_SECONDS", 0.2)
    applying = asyncio.create_task(applier.apply(served, aim))
    await asyncio.to_thread(preparing.wait)
    aim.superseded.set()
    assert await applying is False
    assert served.running is None


async def test_what_is_wanted_again_goes_on(applier, served, aim, preparing, monkeypatch):
    monkeypatch.setattr(applier_module, "FINISH_SECONDS", 0.2)
    applying = asyncio.create_task(applier.apply(served, aim))
    await asyncio.to_thread(preparing.wait)
    aim.superseded.set()
    await asyncio.sleep(0.1)
    aim.superseded.clear()
    await asyncio.sleep(0.5)
    assert not applying.done()
    aim.superseded.set()
    assert await applying is False


async def test_another_model_does_not_wait_for_it(applier, served, aim, preparing, small_version):
    applying = asyncio.create_task(applier.apply(served, aim))
    await asyncio.to_thread(preparing.wait)
    other = ServedModel("other")
    assert await applier.apply(other, Aim(Announcement(replace(small_version, model_name="other"), 1), lambda: None))
    assert other.running is not None
    assert not applying.done()
    await other.close()
    applying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await applying


async def test_what_is_superseded_may_finish(applier, served, aim, preparing, small_version, monkeypatch):
    monkeypatch.setattr(applier_module, "FINISH_SECONDS", 60)
    aim.announcement = Announcement(small_version, 1)
    applying = asyncio.create_task(applier.apply(served, aim))
    await asyncio.to_thread(preparing.wait)
    aim.superseded.set()
    assert await applying is False
    kept = [path.suffix for path in (small_version.path.parent / "prepared").iterdir()]
    assert kept == [".prepared"]


async def test_nobody_waits_for_it_at_the_end(applier, served, aim, preparing):
    applying = asyncio.create_task(applier.apply(served, aim))
    await asyncio.to_thread(preparing.wait)
    applying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await applying
    async with asyncio.timeout(30):
        await applier.close()
