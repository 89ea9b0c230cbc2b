"""Brings one model to the version that was announced last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from inference_server import metrics
from inference_server.engine import ModelVersion
from inference_server.errors import ModelRefused
from inference_server.reporter import Report, Reporter, ReportState
from inference_server.serving import ServedModel, State
from inference_server.state import Announcement
from server_kit import background

log = structlog.get_logger(__name__)

Apply = Callable[[ServedModel, Announcement, Callable[[], bool]], Awaitable[bool]]


class Follower:
    """Brings one model to the version announced last; what was announced in between may be skipped."""

    def __init__(self, model: ServedModel, apply: Apply, reporter: Reporter) -> None:
        self._model = model
        self._apply = apply
        self._reporter = reporter
        self._wanted: Announcement | None = None
        self._refused: ModelVersion | None = None
        self._wake = asyncio.Event()
        self.task = background.start(self._run(), f"follow {model.model_name}")

    def announce(self, announcement: Announcement) -> None:
        """Let this be the version to run."""
        self._model.cleared = False
        if announcement != self._wanted:
            self._wanted = announcement
            self._wake.set()

    def forget(self) -> None:
        """Let no version be the one to run."""
        self._wanted = self._refused = None

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._wanted is not None:
                await self._bring_about(self._wanted)

    async def _bring_about(self, wanted: Announcement) -> None:
        model, version = self._model, wanted.version
        model.seen_version, model.revision = version.version, wanted.revision
        if version == self._refused:  # the same file, announced again: it was refused for good reason
            self._report(wanted, "REJECTED")
            return
        self._refused = None
        if self._runs(version):
            self._settle(wanted, State.SERVING, "APPLIED")
            return
        self._settle(wanted, State.LOADING, "LOADING")
        try:
            swapped = await self._apply(model, wanted, lambda: self._wants(version))
        except ModelRefused as error:
            self._refuse(wanted, str(error))
        except Exception:
            log.exception("version failed to load", model_name=model.model_name, version=version.version)
            self._refuse(wanted, "it failed to load for a reason that is not its own, see the server's log")
        else:
            if swapped:
                self._settle(wanted, State.SERVING, "APPLIED")

    def _wants(self, version: ModelVersion) -> bool:
        return self._wanted is not None and self._wanted.version == version

    def _runs(self, version: ModelVersion) -> bool:
        running = self._model.running
        if running is None:
            return False
        # An entry written by hand may have had no digest when the very same file was loaded.
        return replace(running.model.version, sha256=version.sha256) == version and version.sha256 in (
            "",
            running.model.sha256,
        )

    def _refuse(self, wanted: Announcement, reason: str) -> None:
        if self._wants(wanted.version):
            self._refused = wanted.version
        self._settle(wanted, State.REJECTED, "REJECTED", reason)
        metrics.ACTIVATIONS.labels(self._model.model_name, "rejected").inc()
        log.error(
            "version refused, going on with the one before",
            model_name=self._model.model_name,
            version=wanted.version.version,
            running_version=self._running_version(),
            reason=reason,
        )

    def _settle(self, wanted: Announcement, state: State, reported: ReportState, error: str = "") -> None:
        self._model.state, self._model.last_error = state, error
        self._report(wanted, reported)

    def _report(self, wanted: Announcement, reported: ReportState) -> None:
        self._reporter.tell(Report(wanted, reported, self._running_version(), self._model.last_error))

    def _running_version(self) -> int:
        return self._model.running.model.version.version if self._model.running else 0
