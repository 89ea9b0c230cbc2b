"""UploadModel and DownloadModel over a real socket and real files."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import onnx
import pytest
from grpc import StatusCode as Code
from videoai.registry.v1 import registry_pb2 as pb

from registry_server.files import Files
from registry_server.json_storage import JsonFileStorage
from registry_server.staging import StagingFolder, place_of
from registry_server.steps import Digest
from registry_server.transfers import clear_uploads
from tests.registry_server.conftest import Server, model_bytes
from tests.registry_server.test_process import register


def padded(size: int) -> bytes:
    """A real model of at least `size` bytes."""
    model = onnx.load_from_string(model_bytes(1))
    model.doc_string = os.urandom(size // 2).hex()
    return model.SerializeToString()


def header(data: bytes, version: int = 0, **rest: Any) -> pb.UploadModelRequest:
    fields = {"model_name": "m", "version": version, "sha256": hashlib.sha256(data).hexdigest()}
    return pb.UploadModelRequest(header=pb.UploadHeader(**{**fields, "size_bytes": len(data), **rest}))


def upload(data: bytes, version: int = 0, **rest: Any) -> Iterator[pb.UploadModelRequest]:
    yield header(data, version, **rest)
    for offset in range(0, len(data), 100_000):
        yield pb.UploadModelRequest(chunk=data[offset : offset + 100_000])


def left(root: Any) -> list[str]:
    """Everything below models/ but the registry's own files."""
    found = (path for path in (root.path / "models").rglob("*") if path.name != ".uploads")
    return sorted(str(path.relative_to(root.path)) for path in found if not path.name.startswith("registry."))


async def download(client: Any, version: int, offset: int = 0) -> tuple[pb.Model, bytes]:
    call = client.stub.DownloadModel(pb.DownloadModelRequest(model_name="m", version=version, offset_bytes=offset))
    messages = [message async for message in call]
    assert {message.WhichOneof("payload") for message in messages[1:]} <= {"chunk"}
    assert all(0 < len(message.chunk) <= 2**20 for message in messages[1:])
    return messages[0].model, b"".join(message.chunk for message in messages[1:])


async def test_an_upload_is_placed_registered_and_given_back(client: Any, root: Any) -> None:
    data = padded(2_500_000)
    notes = pb.ModelMetadata(description="first", metrics={"map": 0.5})
    answer = await client.stub.UploadModel(upload(data, metadata=notes))
    model = answer.model
    assert (model.version, model.path, model.status) == (1, "models/m/v1/model.onnx", pb.MODEL_STATUS_STAGING)
    assert (model.sha256, model.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (model.metadata.description, model.inputs[0].name) == ("first", "images")
    assert (root.path / model.path).read_bytes() == data
    assert (await client.activate("m", 1)).model.version == 1
    assert left(root) == ["models/m", "models/m/v1", "models/m/v1/model.onnx"]
    for offset in (0, 1, 2**20, len(data) - 1, len(data)):
        header, rest = await download(client, 1, offset)
        assert (header.sha256, rest == data[offset:]) == (model.sha256, True)


@pytest.mark.parametrize(
    ("requests", "code", "complaint"),
    [
        ([], Code.INVALID_ARGUMENT, "header"),
        ([pb.UploadModelRequest(chunk=b"x")], Code.INVALID_ARGUMENT, "header"),
        ([header(b"ab"), header(b"ab")], Code.INVALID_ARGUMENT, "chunk"),
        ([header(b"ab", model_name="../m")], Code.INVALID_ARGUMENT, "model_name"),
        ([header(b"ab", -1)], Code.INVALID_ARGUMENT, "version"),
        ([header(b"ab", sha256="")], Code.INVALID_ARGUMENT, "sha256"),
        ([header(b"")], Code.INVALID_ARGUMENT, "size_bytes"),
        ([header(bytes(2**20 + 1)), pb.UploadModelRequest(chunk=bytes(2**20 + 1))], Code.INVALID_ARGUMENT, "chunk"),
        ([*upload(b"no model")], Code.INVALID_ARGUMENT, "ONNX"),
        ([header(b"ab"), pb.UploadModelRequest(chunk=b"a")], Code.DATA_LOSS, "size_bytes: expected 2"),
        ([header(b"ab"), pb.UploadModelRequest(chunk=b"abc")], Code.DATA_LOSS, "size_bytes: expected 2"),
        ([*upload(model_bytes(), sha256="0" * 64)], Code.DATA_LOSS, "sha256: expected 000"),
        ([header(b"", size_bytes=2**40)], Code.RESOURCE_EXHAUSTED, "size_bytes"),
    ],
)
async def test_what_is_refused_leaves_nothing(
    client: Any, root: Any, fails: Any, requests: Any, code: Code, complaint: str
) -> None:
    assert complaint in await fails(client.stub.UploadModel(iter(requests)), code)
    assert left(root) == []
    assert not root.file.exists()


async def test_a_file_is_never_overwritten(client: Any, root: Any, fails: Any) -> None:
    path = root.path / root.add_model("m", 1)
    before = path.read_bytes()
    assert "models/m/v1/model.onnx" in await fails(
        client.stub.UploadModel(upload(model_bytes(9), 1)), Code.ALREADY_EXISTS
    )
    assert path.read_bytes() == before
    assert (await client.stub.UploadModel(upload(model_bytes(9)))).model.version == 2  # the next with a free place
    assert "already registered" in await fails(client.stub.UploadModel(upload(model_bytes(9), 2)), Code.ALREADY_EXISTS)
    assert (root.path / "models/m/v2/model.onnx").read_bytes() == model_bytes(9)


async def test_a_folder_that_leads_elsewhere_is_refused(client: Any, root: Any, fails: Any, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root.path / "models" / "m").symlink_to(elsewhere)
    assert "model_name" in await fails(client.stub.UploadModel(upload(model_bytes())), Code.INVALID_ARGUMENT)
    assert [path for path in elsewhere.rglob("*") if path.is_file()] == []


async def test_concurrent_uploads_of_one_version_have_one_winner(root: Any, serve: Any) -> None:
    async with serve(root, max_uploads=8) as one, serve(root, max_uploads=8) as two:
        calls = [(one, two)[n % 2].stub.UploadModel(upload(model_bytes(n), 1)) for n in range(8)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        won = [answer.model for answer in answers if isinstance(answer, pb.UploadModelResponse)]
        assert len(won) == 1
        lost = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert {error.code() for error in lost} == {Code.ALREADY_EXISTS}
        assert hashlib.sha256((root.path / won[0].path).read_bytes()).hexdigest() == won[0].sha256
        calls = [(one, two)[n % 2].stub.UploadModel(upload(model_bytes(n))) for n in range(8)]
        models = [answer.model for answer in await asyncio.gather(*calls)]
    assert sorted(model.version for model in models) == list(range(2, 10))
    for n, model in enumerate(models):
        assert (root.path / model.path).read_bytes() == model_bytes(n)
    assert len([path for path in left(root) if path.endswith(".onnx")]) == 9
    assert list((root.path / "models/.uploads").iterdir()) == []


async def test_a_retry_returns_the_first_result(client: Any, root: Any, fails: Any) -> None:
    data = model_bytes(1)
    first = await client.stub.UploadModel(upload(data, request_id="r"))
    assert (await client.stub.UploadModel(upload(data, request_id="r"))).model == first.model
    assert (await client.stub.UploadModel(upload(data, 1, request_id="r"))).model == first.model
    assert "request_id" in await fails(
        client.stub.UploadModel(upload(model_bytes(2), request_id="r")), Code.ALREADY_EXISTS
    )
    assert left(root) == ["models/m", "models/m/v1", "models/m/v1/model.onnx"]


async def test_the_number_of_uploads_is_limited_and_a_cancelled_one_leaves_nothing(
    root: Any, serve: Any, fails: Any
) -> None:
    data = padded(10_000)
    async with serve(root, max_uploads=1) as client:
        stalled = client.stub.UploadModel()
        await stalled.write(header(data))
        await stalled.write(pb.UploadModelRequest(chunk=data[:5000]))
        await until(lambda: [path for path in parts(root) if path.stat().st_size == 5000])
        assert "limit is 1" in await fails(client.stub.UploadModel(upload(data)), Code.RESOURCE_EXHAUSTED)
        stalled.cancel()
        await until(lambda: not parts(root))
        assert left(root) == []
        assert (await client.stub.UploadModel(upload(data))).model.version == 1


async def test_stopping_the_server_ends_uploads(root: Any, serve: Any) -> None:
    async with serve(root) as client:
        stalled = client.stub.UploadModel()
        await stalled.write(header(bytes(9)))
        await until(lambda: parts(root))
        stalled.cancel()
    assert left(root) == []


class Full(Files):
    """A disk that fails once `room` bytes are written."""

    def __init__(self, room: int, error: int = errno.ENOSPC) -> None:
        self.room, self.error = room, error

    def write(self, descriptor: int, data: memoryview) -> int:
        if not self.room:
            raise OSError(self.error, os.strerror(self.error))
        taken = os.write(descriptor, data[: self.room])
        self.room -= taken
        return taken


@pytest.mark.parametrize(
    ("error", "code"),
    [(errno.ENOSPC, Code.RESOURCE_EXHAUSTED), (errno.EDQUOT, Code.RESOURCE_EXHAUSTED), (errno.EIO, Code.UNAVAILABLE)],
)
async def test_a_full_disk_keeps_nothing(
    root: Any, serve: Any, fails: Any, monkeypatch: pytest.MonkeyPatch, error: int, code: Code
) -> None:
    async with serve(root) as client:
        with monkeypatch.context() as patch:
            patch.setattr(Files, "write", Full(100, error).write)
            await fails(client.stub.UploadModel(upload(model_bytes())), code)
        assert left(root) == []
        assert (await client.stub.UploadModel(upload(model_bytes()))).model.version == 1


@pytest.mark.parametrize("operation", ["replace", "link"])
async def test_a_failure_while_registering_leaves_no_orphan(
    root: Any, serve: Any, fails: Any, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "fails")

    async with serve(root) as client:
        with monkeypatch.context() as patch:
            patch.setattr(Files, operation, fail)
            await fails(client.stub.UploadModel(upload(model_bytes())), Code.UNAVAILABLE)
        assert left(root) == []
        assert (await client.stub.UploadModel(upload(model_bytes()))).model.version == 1


@pytest.mark.parametrize("change", ["bytes", "longer", "shorter", "gone"])
async def test_a_file_that_changed_ends_with_data_loss(client: Any, root: Any, fails: Any, change: str) -> None:
    data = padded(1_500_000)
    path = root.path / (await client.stub.UploadModel(upload(data))).model.path
    path.unlink()
    if change != "gone":
        path.write_bytes({"bytes": b"?" + data[1:], "longer": data + b"?", "shorter": data[:-1]}[change])
    for offset in (0, 1_200_000):
        assert "version 1 of model 'm'" in await fails(download(client, 1, offset), Code.DATA_LOSS)


async def test_bad_downloads_are_refused(client: Any, fails: Any) -> None:
    await client.stub.UploadModel(upload(model_bytes()))
    await fails(download(client, 2), Code.NOT_FOUND)
    for offset in (-1, len(model_bytes()) + 1):
        assert "offset_bytes" in await fails(download(client, 1, offset), Code.INVALID_ARGUMENT)


async def test_an_entry_written_by_hand_is_given_with_its_digest(example: Any, serve: Any) -> None:
    async with serve(example) as client:
        request = pb.DownloadModelRequest(model_name="yolov8n-coco", version=1)
        messages = [message async for message in client.stub.DownloadModel(request)]
    data = b"".join(message.chunk for message in messages)
    assert messages[0].model.sha256 == hashlib.sha256(data).hexdigest()
    assert messages[0].model.size_bytes == len(data) > 0


def test_sigkill_in_mid_upload_leaves_nothing_and_spares_the_live_one(root: Any, start: Callable[..., Server]) -> None:
    data = padded(10_000)
    dying, living = start(), start()
    calls = [begin(server, data) for server in (dying, living)]
    wait(lambda: [path.stat().st_size for path in parts(root)] == [5000, 5000])
    dying.end(signal.SIGKILL)
    assert len(parts(root)) == 2
    again = start()
    assert len(parts(root)) == 1
    calls[1][1].set()
    assert calls[1][0].result(30).model.version == 1
    stub = again.stub()
    wait(lambda: [entry.path for entry in stub.ListModels(pb.ListModelsRequest()).models] == [place_of("m", 1)])
    assert parts(root) == []
    calls[0][1].set()
    with pytest.raises(grpc.RpcError):
        calls[0][0].result(30)


def test_what_was_placed_but_not_registered_is_cleared(root: Any, start: Callable[..., Server]) -> None:
    """As a server leaves it that is killed between placing and registering, and between registering and clearing."""
    register(start().stub(), root, 1)
    staging = StagingFolder(root.path)
    hidden = root.path / "models/.uploads"
    hidden.mkdir()
    (hidden / "a.part").hardlink_to(root.path / place_of("m", 1))
    (hidden / "b.part").write_bytes(b"placed")
    staging.place(hidden / "b.part", place_of("m", 2))
    (hidden / "c.part").write_bytes(b"partial")
    clear_uploads(staging, JsonFileStorage(root.file))
    assert left(root) == ["models/m", "models/m/v1", "models/m/v1/model.onnx"]


def test_a_file_in_use_is_not_cleared(root: Any) -> None:
    staged = StagingFolder(root.path).new(Digest("0" * 64, 1))
    staged.open()
    assert StagingFolder(root.path).clear(lambda _: False) == 0
    assert len(parts(root)) == 1
    staged.close()
    assert parts(root) == []


def parts(root: Any) -> list[Path]:
    return sorted((root.path / "models/.uploads").glob("*"))


def begin(server: Server, data: bytes) -> Any:
    """Send half of `data`, and the rest once the event is set."""
    go = threading.Event()

    def requests() -> Iterator[pb.UploadModelRequest]:
        yield header(data)
        yield pb.UploadModelRequest(chunk=data[:5000])
        go.wait(60)
        yield pb.UploadModelRequest(chunk=data[5000:])

    return server.stub().UploadModel.future(requests()), go


def wait(condition: Callable[[], Any]) -> None:
    async def loop() -> None:
        await until(condition)

    asyncio.run(loop())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)
