"""Reports that do not arrive are told again."""

import asyncio
from pathlib import Path

import pytest
from videoai import errors

from inference_server import reporter
from inference_server.engine import ModelVersion
from inference_server.reporter import Report, Reporter
from inference_server.state import Announcement


class Registry:
    """Keeps what it was told, and fails as often as it is asked to."""

    def __init__(self):
        self.told = asyncio.Queue()
        self.failures = 0

    async def report(self, **fields):
        if self.failures:
            self.failures -= 1
            raise errors.Unavailable("gone for a moment")
        self.told.put_nowait((fields["model_name"], fields["version"], fields["running_version"]))

    async def next(self):
        return await asyncio.wait_for(self.told.get(), 30)


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
async def told(registry, monkeypatch):
    monkeypatch.setattr(reporter, "RETRY_SECONDS", 0.01)
    told = Reporter(registry, "replica")
    task = asyncio.create_task(told.run())
    yield told
    task.cancel()


def report(name="shapes", version=1):
    return Report(Announcement(ModelVersion(name, version, Path("m.onnx"), "", {}), 7), "APPLIED", version)


async def test_a_report_that_was_lost_is_told_again(registry, told):
    registry.failures = 3
    told.tell(report())
    assert await registry.next() == ("shapes", 1, 1)
    assert registry.told.empty()


async def test_only_the_latest_report_of_each_model_is_told(registry, told):
    for version in (1, 2, 3):
        told.tell(report(version=version))
    told.tell(report("other"))
    assert {await registry.next(), await registry.next()} == {("shapes", 3, 3), ("other", 1, 1)}


async def test_a_registry_that_forgot_is_told_everything(registry, told):
    told.tell(report())
    await registry.next()
    told.repeat()
    assert await registry.next() == ("shapes", 1, 1)
