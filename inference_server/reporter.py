"""Tells the registry how far this server has come with each version that it was told about."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

import structlog
from videoai.aio import RegistryClient
from videoai.errors import VideoAIError
from videoai.registry.v1 import registry_pb2

from inference_server.state import Announcement

log = structlog.get_logger(__name__)

RETRY_SECONDS = 1.0

ReportState = Literal["RECEIVED", "LOADING", "APPLIED", "REJECTED"]


@dataclass(frozen=True, slots=True)
class Report:
    """How far this server has come with an announcement."""

    announcement: Announcement
    state: ReportState
    running_version: int
    error: str = ""


class Reporter:
    """Tells the registry the latest report on each model; what it could not tell it tells again."""

    def __init__(self, client: RegistryClient, instance_id: str) -> None:
        self._client = client
        self._instance_id = instance_id
        self._latest: dict[str, Report] = {}
        self._untold: set[str] = set()
        self._wake = asyncio.Event()

    def tell(self, report: Report) -> None:
        self._latest[report.announcement.version.model_name] = report
        self._untold.add(report.announcement.version.model_name)
        self._wake.set()

    def repeat(self) -> None:
        """Tell everything again."""
        self._untold.update(self._latest)
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._untold:
                name = self._untold.pop()
                try:
                    await self._send(self._latest[name])
                except VideoAIError as error:
                    log.debug("report did not reach the registry", model_name=name, reason=str(error))
                    self._untold.add(name)
                    await asyncio.sleep(RETRY_SECONDS)

    async def _send(self, report: Report) -> None:
        version = report.announcement.version
        await self._client.report(
            instance_id=self._instance_id,
            model_name=version.model_name,
            version=version.version,
            revision=report.announcement.revision,
            state=registry_pb2.ModelState.Value(f"MODEL_STATE_{report.state}"),
            running_version=report.running_version,
            error=report.error,
        )
