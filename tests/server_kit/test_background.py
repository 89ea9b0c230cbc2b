import asyncio

import pytest
from structlog.testing import capture_logs

from server_kit import background


async def test_work_runs_beside_the_body_and_ends_with_it():
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with background.running(work()):
        await asyncio.wait_for(begun.wait(), 30)
        assert not ended.is_set()
    assert ended.is_set()


async def test_a_failure_is_logged_when_it_happens_and_ends_nothing_else():
    async def work():
        raise LookupError("gone")

    with capture_logs() as logs:
        async with background.running(work()):
            while not logs:
                await asyncio.sleep(0)
    assert logs[0]["log_level"] == "critical"
    assert "work" in logs[0]["task"]


async def test_what_the_body_raises_is_raised():
    with pytest.raises(ValueError, match="the body"):
        async with background.running(asyncio.sleep(60)):
            raise ValueError("the body")
