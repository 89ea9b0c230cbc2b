"""Model files through the registry: taken by upload and registered in one go, given by download."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedReader
from typing import Any, TypeVar, cast

import structlog

from registry_server import steps
from registry_server.artifacts import ArtifactFolder, read_artifact
from registry_server.catalog import Catalog
from registry_server.entry import Entry, check_version
from registry_server.errors import (
    AlreadyRegistered,
    ArtifactMissing,
    CommitUncertain,
    DataDamaged,
    InvalidField,
    SeveralFiles,
    TooManyUploads,
    UploadStalled,
    UploadTooLarge,
)
from registry_server.registry import Registry, Result
from registry_server.staging import StagedFile, StagingFolder, place_of
from registry_server.steps import Artifact, Change, Digest, Moment, Registration
from registry_server.storage import Storage

log = structlog.get_logger(__name__)

CHUNK_BYTES = 2**20
"""The most that a message may carry."""
READ_BYTES = 2**19
"""What a download carries: of 1 MiB, memory would go back to the system and come again with each message, at a third of
the time."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest upload in bytes, most uploads at a time, and how long one may send nothing."""

    upload_bytes: int
    uploads: int
    idle_seconds: float = 60.0


class Transfers:
    """Uploads and downloads. Use from one event loop; files are touched in threads."""

    def __init__(self, registry: Registry, artifacts: ArtifactFolder, staging: StagingFolder, limits: Limits) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._staging = staging
        self._limits = limits
        self._uploads: set[asyncio.Task[Any]] = set()

    async def upload(self, wanted: Registration, digest: Digest, chunks: AsyncIterator[bytes]) -> Result:
        """Take a file, place it and register it as staging; `wanted.path` is not looked at.

        Whatever fails, nothing stays on disk. Cancelled before the registration begins, nothing stays either; from
        then on it is finished even if the caller has gone.
        """
        self._admit(wanted, digest.size_bytes)
        staged = self._staging.new(digest)
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._uploads.add(task)
        try:
            await _in_thread(staged.open)
            async for chunk in _punctual(chunks, self._limits.idle_seconds):
                if len(chunk) > CHUNK_BYTES:
                    raise InvalidField("chunk", f"at most {CHUNK_BYTES} bytes", len(chunk))
                await _in_thread(partial(staged.write, chunk))
            artifact = await _in_thread(partial(staged.finish, f"the upload of {wanted.model_name}"))
            return await _to_its_end(self._register(wanted, staged, artifact))
        finally:
            self._uploads.discard(task)
            await _in_thread(staged.close)

    @asynccontextmanager
    async def download(
        self, model_name: str, version: int, offset: int
    ) -> AsyncIterator[tuple[Entry, Digest, AsyncIterator[bytes]]]:
        """A version, the digest and size of its file, and the file from `offset` on.

        The chunks end with DataDamaged if the file is not what was registered.
        """
        entry = self._registry.catalog.get(model_name, version)
        if entry.weights_files:
            raise SeveralFiles(model_name, version)
        what = f"version {version} of model {model_name!r}"
        try:
            file = await asyncio.to_thread(self._artifacts.open, entry.path)
        except ArtifactMissing:
            raise DataDamaged(what, "path", f"a file at {entry.path!r}", "none") from None
        try:
            digest = await _in_thread(partial(self._expected, entry, file))
            if not 0 <= offset <= digest.size_bytes:
                raise InvalidField("offset_bytes", f"0..{digest.size_bytes}, the size of the file", offset)
            yield entry, digest, _read(file, digest, offset, what)
        finally:
            file.close()

    def _expected(self, entry: Entry, file: BufferedReader) -> Digest:
        """What was registered; for an entry written by hand, what the file is now."""
        if entry.sha256 and entry.size_bytes:
            return Digest(entry.sha256, entry.size_bytes)
        found = read_artifact(entry.path, file, self._artifacts.beside(entry.path))
        if found.weights_files:
            raise SeveralFiles(*entry.key)
        return Digest(entry.sha256 or found.digest.sha256, found.digest.size_bytes)

    async def close(self) -> None:
        """End the uploads that still run."""
        for task in self._uploads:
            task.cancel()
        await asyncio.gather(*self._uploads, return_exceptions=True)

    def _admit(self, wanted: Registration, size: int) -> None:
        """Refuse before the file is sent what would be refused after."""
        if size < 1:
            raise InvalidField("size_bytes", "the size of the file, at least 1", size)
        if size > self._limits.upload_bytes:
            raise UploadTooLarge(self._limits.upload_bytes, size)
        catalog = self._registry.catalog
        repeated = wanted.request_id and catalog.registered_by(wanted.request_id)
        if not repeated and catalog.find(wanted.model_name, wanted.version):
            raise AlreadyRegistered(wanted.model_name, wanted.version)
        if len(self._uploads) >= self._limits.uploads:
            raise TooManyUploads(self._limits.uploads)

    async def _register(self, wanted: Registration, staged: StagedFile, artifact: Artifact) -> Result:
        try:
            return await self._registry.change(partial(self._place_and_register, wanted, staged, artifact))
        except CommitUncertain:  # the entry is there, and so must be its file
            raise
        except Exception:
            await asyncio.to_thread(staged.unplace)
            raise

    def _place_and_register(
        self, wanted: Registration, staged: StagedFile, artifact: Artifact, catalog: Catalog, moment: Moment
    ) -> Change:
        """The registry's storage is locked meanwhile, so no other upload can choose the same version."""
        earlier = catalog.registered_by(wanted.request_id) if wanted.request_id else None
        if earlier is not None:
            return steps.register(catalog, replace(wanted, path=earlier.path), _Known(artifact), moment)
        version = wanted.version or self._free_version(catalog, wanted.model_name)
        if catalog.find(wanted.model_name, version):
            raise AlreadyRegistered(wanted.model_name, version)
        place = place_of(wanted.model_name, version)
        staged.place(place)
        return steps.register(catalog, replace(wanted, version=version, path=place), _Known(artifact), moment)

    def _free_version(self, catalog: Catalog, model_name: str) -> int:
        """The next version whose place is free, too: a deleted version's file stays where it is."""
        version = steps.next_version(catalog, model_name)
        while self._staging.taken(place_of(model_name, version)):
            version = check_version(version + 1)
        return version


@asynccontextmanager
async def open_transfers(
    registry: Registry, artifacts: ArtifactFolder, staging: StagingFolder, limits: Limits
) -> AsyncIterator[Transfers]:
    """Offer uploads and downloads until left."""
    transfers = Transfers(registry, artifacts, staging, limits)
    try:
        yield transfers
    finally:
        await transfers.close()


def clear_uploads(staging: StagingFolder, storage: Storage) -> None:
    """Remove what servers that were killed in mid-upload left behind."""
    # Loaded for each file anew: its server may have registered it right before it died.
    cleared = staging.clear(lambda path: any(entry.path == path for entry in storage.load().entries))
    if cleared:
        log.info("cleared what interrupted uploads left", files=cleared)


@dataclass(frozen=True, slots=True)
class _Known:
    """`Artifacts` of one file that has been read already."""

    artifact: Artifact

    def digest(self, _path: str, _weights_files: tuple[str, ...] = ()) -> Digest:
        return self.artifact.digest

    def inspect(self, _path: str) -> Artifact:
        return self.artifact


async def _read(file: BufferedReader, digest: Digest, offset: int, what: str) -> AsyncIterator[bytes]:
    """The bytes from `offset` on, digested together with those before it while they are read."""
    seen = hashlib.sha256()
    position = 0
    file.seek(0)

    def read() -> bytes:
        chunk = file.read(READ_BYTES)
        seen.update(chunk)
        return chunk

    while chunk := await _in_thread(read):
        start, position = position, position + len(chunk)
        if position > digest.size_bytes:
            break
        if position > offset:
            yield chunk[max(offset - start, 0) :]
    if position != digest.size_bytes:
        raise DataDamaged(what, "size_bytes", digest.size_bytes, f"{position} bytes on disk")
    if seen.hexdigest() != digest.sha256:
        raise DataDamaged(what, "sha256", digest.sha256, f"{seen.hexdigest()} on disk")


async def _punctual(chunks: AsyncIterator[bytes], idle_seconds: float) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise UploadStalled(idle_seconds) from None
        if chunk is None:
            return
        yield chunk


async def _in_thread(work: Callable[[], T]) -> T:
    return await _to_its_end(asyncio.to_thread(work))


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; if cancelled, only once it is done: what it uses may then be taken away."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: whoever would be told has gone
        raise
