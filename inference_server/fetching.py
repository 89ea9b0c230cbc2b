"""Where the file of a version is: on the volume, or in the cache, which the registry's download fills."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

import structlog
from videoai import RegistryClient, errors
from videoai.watching import Backoff

from inference_server import metrics
from inference_server.cache import Held, ModelCache, Part
from inference_server.engine import ModelVersion
from inference_server.errors import ModelRefused

if TYPE_CHECKING:
    from videoai.registry.v1 import registry_pb2

log = structlog.get_logger(__name__)

BACKOFF = Backoff(first_seconds=0.5, longest_seconds=5.0)
ELSEWHERE_SECONDS = 0.2  # between two looks at what another process downloads
MOST_ARRIVALS = 2  # of a file that is then not in the cache
MOST_FETCHES = 256  # one thread each, nearly all of them waiting

# Asking again will not help.
FINAL = (
    errors.NotFound,
    errors.DataLoss,
    errors.FailedPrecondition,
    errors.InvalidArgument,
    errors.Unimplemented,
    errors.PermissionDenied,
    errors.Unauthenticated,
)

Connect = Callable[[], RegistryClient]


class Stopped(Exception):  # noqa: N818 - says what happened
    """The file is not wanted any more."""


class ModelFiles:
    """Finds the files of versions. `cache` is None where nothing is to be fetched."""

    def __init__(self, connect: Connect, cache: ModelCache | None) -> None:
        self._connect = connect
        self._cache = cache
        self._threads = ThreadPoolExecutor(MOST_FETCHES, thread_name_prefix="fetch")

    async def find(self, version: ModelVersion, superseded: asyncio.Event) -> Held | None:
        """The version's file, held; None as soon as `superseded` is set. Raises ModelRefused.

        What is on the volume is taken as it is, and left to the engine to verify: it is never replaced by what the
        registry would give.
        """
        if self._cache is None or await asyncio.to_thread(os.path.lexists, version.path):
            return Held(version.path)
        if not version.sha256:
            raise ModelRefused(
                f"{version.path}: no such file, and without a sha256 in its registry entry it cannot be fetched:"
                " activate it with a call, where the file is, and the registry adds that"
            )
        fetch = Fetch(version, self._cache, self._connect())
        running = asyncio.get_running_loop().run_in_executor(self._threads, fetch.run)
        stop = asyncio.ensure_future(superseded.wait())
        try:
            await asyncio.wait((running, stop), return_when=asyncio.FIRST_COMPLETED)
            fetch.stop()
            return await asyncio.shield(running)
        except Stopped:
            return None
        except asyncio.CancelledError:
            # Waiting for the thread is for `close`.
            running.add_done_callback(_release)
            raise
        finally:
            fetch.stop()
            stop.cancel()

    async def close(self) -> None:
        """Wait until all threads have ended; what they do must have been stopped."""
        await asyncio.to_thread(self._threads.shutdown)


class Fetch:
    """Brings one file into the cache. `run` blocks; `stop`, from another thread, ends it at once."""

    def __init__(self, version: ModelVersion, cache: ModelCache, client: RegistryClient) -> None:
        self._version = version
        self._cache = cache
        self._client = client
        self._stopped = threading.Event()
        self._size = 0
        self._received = 0
        self._arrivals = 0

    def stop(self) -> None:
        self._stopped.set()
        self._client.close()

    def run(self) -> Held:
        """The file with the version's digest, held. Raises ModelRefused with a reason for a person, or Stopped."""
        try:
            return self._find()
        except ModelRefused:
            metrics.FETCHES.labels("refused").inc()
            raise
        except OSError as error:
            metrics.FETCHES.labels("refused").inc()
            raise ModelRefused(f"the cache {self._cache.folder} cannot be used: {error.strerror or error}") from error

    def _find(self) -> Held:
        delays = BACKOFF.delays()
        while not self._stopped.is_set():
            if held := self._cache.take(self._version.sha256):
                metrics.FETCHES.labels("downloaded" if self._arrivals else "cached").inc()
                return held
            before = self._received
            try:
                self._download()
            except errors.VideoAIError as error:
                if self._received > before:
                    delays = BACKOFF.delays()
                self._pause(error, next(delays))
        raise Stopped

    def _download(self) -> None:
        """Receive the rest of the file, unless another does. What has come stays if the registry goes away."""
        if self._arrivals == MOST_ARRIVALS:
            raise ModelRefused(f"the cache {self._cache.folder} lost or changed what was put into it, twice")
        if not self._size:
            with self._read(0) as (model, _):
                self._size = model.size_bytes
        part = self._cache.begin(self._version.sha256, self._size)
        if part is None:
            self._stopped.wait(ELSEWHERE_SECONDS)
            return
        with closing(part), self._read(part.position) as (_, chunks):
            self._receive(part, chunks)

    @contextmanager
    def _read(self, offset: int) -> Iterator[tuple[registry_pb2.Model, Iterator[bytes]]]:
        version = self._version
        with self._client.read(version.model_name, version.version, offset_bytes=offset) as (model, chunks):
            if model.sha256 != version.sha256:
                raise ModelRefused(f"sha256: expected {version.sha256}, the registry gives a file with {model.sha256}")
            yield model, chunks

    def _receive(self, part: Part, chunks: Iterator[bytes]) -> None:
        start, offset = perf_counter(), part.position
        self._say(log.info, "fetching a file from the registry", size_bytes=self._size, offset_bytes=offset)
        try:
            for chunk in chunks:
                part.write(chunk)
                self._received += len(chunk)
                metrics.FETCHED_BYTES.inc(len(chunk))
            found = part.finish()
        except OSError:
            part.discard()
            raise
        self._arrivals += 1
        if found == self._version.sha256:
            self._say(log.info, "file fetched", fetch_seconds=round(perf_counter() - start, 3))
        elif offset:  # what was there before may be what is wrong
            self._say(log.warning, "the file went wrong on its way, fetching it anew", found=found)
        else:
            raise ModelRefused(f"sha256: expected {self._version.sha256}, received {found}")

    def _pause(self, error: errors.VideoAIError, seconds: float) -> None:
        if self._stopped.is_set():
            return
        if isinstance(error, FINAL):
            raise ModelRefused(f"the registry does not give the file: {error}") from None
        say = log.warning if seconds <= BACKOFF.first_seconds else log.debug
        self._say(say, "the registry does not give the file now, trying again", reason=str(error))
        self._stopped.wait(seconds)

    def _say(self, say: Callable[..., Any], event: str, **fields: Any) -> None:
        say(event, model_name=self._version.model_name, version=self._version.version, **fields)


def _release(future: asyncio.Future[Held]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().release()
