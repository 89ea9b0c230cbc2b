"""From what the registry announces to what runs."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from inference_server.engine import ModelVersion
from inference_server.errors import ModelRefused, NotPrepared
from inference_server.follower import Follower
from inference_server.serving import ServedModel, State
from inference_server.state import Announcement


class Reports:
    """Stands in for the reporter."""

    def __init__(self):
        self.queue = asyncio.Queue()

    def tell(self, report):
        self.queue.put_nowait((report.announcement.version.version, report.state, report.running_version, report.error))

    async def until(self, state):
        told = []
        async with asyncio.timeout(30):
            while not told or told[-1][1] != state:
                told.append(await self.queue.get())
        return told


class Loader:
    """Swaps fake models in; a version in `failures` fails, and with `gate` closed, loading takes until it opens."""

    def __init__(self, fake_model):
        self.fake_model = fake_model
        self.failures = {}
        self.loaded = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()

    async def __call__(self, served, aim):
        version = aim.announcement.version
        aim.loading()
        self.begun.set()
        await self.gate.wait()
        self.loaded.append(version.version)
        if version.version in self.failures:
            raise self.failures[version.version]
        if not aim.superseded.is_set():
            model = self.fake_model(version.version)
            model.version = version
            served.swap(model)
        return not aim.superseded.is_set()


def announce(version, revision=None, sha256="ab" * 32):
    return Announcement(ModelVersion("fake", version, Path("model.onnx"), sha256, {}), revision or version)


@pytest.fixture
def reports():
    return Reports()


@pytest.fixture
def loader(fake_model):
    return Loader(fake_model)


@pytest.fixture
async def served():
    served = ServedModel("fake")
    yield served
    await served.close()


@pytest.fixture
async def follower(served, loader, reports):
    follower = Follower(served, loader, reports)
    yield follower
    follower.task.cancel()


async def test_an_announced_version_is_loaded_and_reported(follower, served, reports):
    follower.announce(announce(1))
    assert await reports.until("APPLIED") == [(1, "RECEIVED", 0, ""), (1, "LOADING", 0, ""), (1, "APPLIED", 1, "")]
    assert (served.state, served.seen_version, served.revision) == (State.SERVING, 1, 1)


async def test_a_refused_version_leaves_the_old_one_and_says_why(follower, served, loader, reports):
    follower.announce(announce(1))
    await reports.until("APPLIED")
    loader.failures[2] = ModelRefused("two outputs")
    follower.announce(announce(2))
    assert (await reports.until("REJECTED"))[-1] == (2, "REJECTED", 1, "two outputs")
    assert (served.state, served.last_error) == (State.REJECTED, "two outputs")
    follower.announce(announce(1, revision=3))
    assert (await reports.until("APPLIED"))[-1] == (1, "APPLIED", 1, "")
    assert (served.state, served.last_error) == (State.SERVING, "")
    assert loader.loaded == [1, 2]


async def test_a_bug_in_loading_does_not_end_the_following(follower, loader, reports):
    loader.failures[1] = RuntimeError("secret")
    follower.announce(announce(1))
    told = await reports.until("REJECTED")
    assert "secret" not in told[-1][3]
    follower.announce(announce(2))
    await reports.until("APPLIED")


async def test_what_was_refused_is_not_tried_again_until_another_was_announced(follower, loader, reports):
    loader.failures[1] = ModelRefused("missing")
    follower.announce(announce(1))
    await reports.until("REJECTED")
    follower.announce(announce(1, revision=5))
    assert await reports.until("REJECTED") == [(1, "REJECTED", 0, "missing")]
    del loader.failures[1]
    follower.announce(announce(2))
    await reports.until("APPLIED")
    follower.announce(announce(1, revision=7))
    await reports.until("APPLIED")
    assert loader.loaded == [1, 2, 1]


async def test_what_could_not_be_prepared_is_tried_again(follower, loader, reports):
    loader.failures[1] = NotPrepared("killed")
    follower.announce(announce(1))
    await reports.until("REJECTED")
    del loader.failures[1]
    follower.announce(announce(1, revision=5))
    await reports.until("APPLIED")
    assert loader.loaded == [1, 1]


async def test_versions_announced_during_a_load_are_skipped_but_the_last(follower, served, loader, reports):
    loader.gate.clear()
    follower.announce(announce(1))
    await loader.begun.wait()
    for version in (2, 3, 4):
        follower.announce(announce(version))
    loader.gate.set()
    told = await reports.until("APPLIED")
    assert told[-1] == (4, "APPLIED", 4, "")
    assert loader.loaded == [1, 4]
    assert served.swaps == 0


async def test_a_load_is_not_wasted_if_its_version_is_wanted_again_when_it_is_done(follower, served, loader, reports):
    follower.announce(announce(1))
    await reports.until("APPLIED")
    loader.gate.clear()
    loader.begun.clear()
    follower.announce(announce(2))
    await loader.begun.wait()
    follower.announce(announce(1, revision=3))
    follower.announce(announce(2, revision=4))
    loader.gate.set()
    await reports.until("APPLIED")
    assert loader.loaded == [1, 2]
    assert served.swaps == 1


async def test_the_same_file_is_not_loaded_twice(follower, served, loader, reports):
    by_hand = announce(1, sha256="")
    follower.announce(by_hand)
    await reports.until("APPLIED")
    follower.announce(Announcement(replace(by_hand.version, sha256=served.running.model.sha256), 2))
    await reports.until("APPLIED")
    assert loader.loaded == [1]
    follower.announce(Announcement(replace(by_hand.version, sha256="cd" * 32), 3))
    await reports.until("APPLIED")
    assert loader.loaded == [1, 1]
