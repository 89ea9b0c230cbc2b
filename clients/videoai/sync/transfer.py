"""Model files to and from the registry: digested on the way, checked at both ends."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, BinaryIO

import grpc

from videoai import errors
from videoai.registry.v1 import registry_pb2

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from videoai.registry.v1 import registry_pb2_grpc

    Progress = Callable[[int, int], None]  # bytes done, bytes of all

CHUNK_BYTES = 2**20
PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0)
"""Before each attempt to go on; one that brings bytes starts them anew."""


def upload(
    stub: registry_pb2_grpc.ModelRegistryServiceStub,
    header: registry_pb2.UploadHeader,
    file: str | os.PathLike[str],
    progress: Progress | None,
) -> registry_pb2.Model:
    """Send `file` under `header`, whose sha256 and size_bytes are filled in here."""
    with Path(file).open("rb") as opened:
        header.sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        header.size_bytes = opened.tell()
        opened.seek(0)
        try:
            model = stub.UploadModel(_requests(header, opened, progress)).model
        except grpc.RpcError as error:
            raise errors.from_grpc(error) from None
    if model.sha256 != header.sha256:
        raise errors.DataLoss(f"sha256: sent {header.sha256}, the registry has {model.sha256}")
    return model


def _requests(
    header: registry_pb2.UploadHeader, file: BinaryIO, progress: Progress | None
) -> Iterator[registry_pb2.UploadModelRequest]:
    yield registry_pb2.UploadModelRequest(header=header)
    while chunk := file.read(CHUNK_BYTES):
        yield registry_pb2.UploadModelRequest(chunk=chunk)
        if progress:
            progress(file.tell(), header.size_bytes)


def download(
    stub: registry_pb2_grpc.ModelRegistryServiceStub,
    request: registry_pb2.DownloadModelRequest,
    file: str | os.PathLike[str],
    progress: Progress | None,
    closed: threading.Event,
) -> registry_pb2.Model:
    """Write the version to `file`, which appears whole or not at all."""
    target = Path(file)
    part = target.with_name(f".{target.name}.{token_hex(4)}.part")
    try:
        with part.open("xb") as opened:
            model = _Download(stub, request, opened, progress).run(closed)
        part.replace(target)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return model


@contextmanager
def read(
    stub: registry_pb2_grpc.ModelRegistryServiceStub, request: registry_pb2.DownloadModelRequest
) -> Iterator[tuple[registry_pb2.Model, Iterator[bytes]]]:
    """Give the version and its bytes as they come; what the call raises within the block is raised as VideoAIError."""
    try:
        call = stub.DownloadModel(request)
    except ValueError as error:  # so gRPC says that the channel is closed
        raise errors.Cancelled(str(error)) from None
    try:
        first = next(call, None)
        if first is None or first.WhichOneof("payload") != "model":
            raise errors.DataLoss("the registry ended the download before it began")
        yield first.model, (message.chunk for message in call)
    except grpc.RpcError as error:
        raise errors.from_grpc(error) from None
    finally:
        call.cancel()


class _Download:
    def __init__(
        self,
        stub: registry_pb2_grpc.ModelRegistryServiceStub,
        request: registry_pb2.DownloadModelRequest,
        file: BinaryIO,
        progress: Progress | None,
    ) -> None:
        self._stub = stub
        self._request = request
        self._file = file
        self._progress = progress
        self._hash = hashlib.sha256()
        self._model: registry_pb2.Model | None = None

    def run(self, closed: threading.Event) -> registry_pb2.Model:
        """Receive all of it; go on where it broke off if the registry goes away for a while."""
        failures = 0
        while True:
            before = self._file.tell()
            try:
                return self._receive()
            except errors.VideoAIError as error:
                failure = error
            if self._file.tell() > before:
                failures = 0
            resumable = self._model is not None and isinstance(failure, errors.Unavailable)
            if not resumable or failures == len(PAUSES_SECONDS) or closed.wait(PAUSES_SECONDS[failures]):
                raise failure
            failures += 1

    def _receive(self) -> registry_pb2.Model:
        self._request.offset_bytes = self._file.tell()
        with read(self._stub, self._request) as (model, chunks):
            self._check_same(model)
            for chunk in chunks:
                self._take(chunk, model.size_bytes)
        if self._hash.hexdigest() != model.sha256:
            raise errors.DataLoss(f"sha256: expected {model.sha256}, received {self._hash.hexdigest()}")
        return model

    def _check_same(self, model: registry_pb2.Model) -> None:
        if self._model is not None and model.sha256 != self._model.sha256:
            raise errors.DataLoss(f"sha256: the download began with {self._model.sha256}, now it is {model.sha256}")
        self._model = model

    def _take(self, chunk: bytes, size_bytes: int) -> None:
        self._file.write(chunk)
        self._hash.update(chunk)
        if self._progress:
            self._progress(self._file.tell(), size_bytes)
