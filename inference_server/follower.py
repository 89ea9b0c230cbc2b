"""Brings one model to the version that was announced last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from inference_server import metrics
from inference_server.engine import ModelVersion
from inference_server.errors import ModelRefused, NotPrepared
from inference_server.reporter import Report, Reporter, ReportState
from inference_server.serving import ServedModel, State
from inference_server.state import Announcement
from server_kit import background

log = structlog.get_logger(__name__)


class Aim:
    """What a follower is bringing about, for whoever does the work."""

    def __init__(self, announcement: Announcement, on_loading: Callable[[], None]) -> None:
        self.announcement = announcement
        self.superseded = asyncio.Event()
        """Set while another version is wanted."""
        self.loading = on_loading
        """To be called when the file is there and loading begins."""


Apply = Callable[[ServedModel, Aim], Awaitable[bool]]


class Follower:
    """Brings one model to the version announced last; what was announced in between may be skipped."""

    def __init__(self, model: ServedModel, apply: Apply, reporter: Reporter) -> None:
        self._model = model
        self._apply = apply
        self._reporter = reporter
        self._wanted: Announcement | None = None
        self._aim: Aim | None = None
        self._refused: ModelVersion | None = None
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self.task = background.start(self._run(), f"follow {model.model_name}")

    def announce(self, announcement: Announcement) -> None:
        """Let this be the version to run."""
        self._model.cleared = False
        if announcement != self._wanted:
            self._wanted = announcement
            self._check_aim()
            self._settled.clear()
            self._wake.set()

    async def settled(self) -> None:
        """Wait until it is known whether the version announced last runs."""
        await self._settled.wait()

    def forget(self) -> None:
        """Let no version be the one to run."""
        self._wanted = self._refused = None
        self._check_aim()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._wanted is not None:
                await self._bring_about(self._wanted)
            if not self._wake.is_set():
                self._settled.set()

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
        self._settle(wanted, State.LOADING, "RECEIVED")
        self._aim = Aim(wanted, lambda: self._settle(wanted, State.LOADING, "LOADING"))
        try:
            swapped = await self._apply(model, self._aim)
        except ModelRefused as error:
            self._refuse(wanted, str(error), lasting=not isinstance(error, NotPrepared))
        except Exception:
            log.exception("version failed to load", model_name=model.model_name, version=version.version)
            self._refuse(wanted, "it failed to load for a reason that is not its own, see the server's log")
        else:
            if swapped:
                self._settle(wanted, State.SERVING, "APPLIED")
        finally:
            self._aim = None

    def _check_aim(self) -> None:
        """A version that is wanted again before its work was given up is not superseded any more."""
        if self._aim is None:
            return
        if self._wants(self._aim.announcement.version):
            self._aim.superseded.clear()
        else:
            self._aim.superseded.set()

    def _wants(self, version: ModelVersion) -> bool:
        return self._wanted is not None and self._wanted.version == version

    def _runs(self, version: ModelVersion) -> bool:
        running = self._model.running
        if running is None:
            return False
        loaded = running.model.version
        # A digest says more than a path: the file may have come from the cache. An entry written by hand may have none.
        same = version.sha256 == running.model.sha256 if version.sha256 else version.path == loaded.path
        return same and replace(loaded, path=version.path, sha256=version.sha256) == version

    def _refuse(self, wanted: Announcement, reason: str, *, lasting: bool = True) -> None:
        if lasting and self._wants(wanted.version):
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
