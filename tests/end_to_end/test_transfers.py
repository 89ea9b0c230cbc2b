"""The clients and the command line push files to a real registry and pull them back."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import videoai
import videoai.aio
from videoai import cli, errors
from videoai.registry.v1 import registry_pb2 as pb

from registry_server.artifacts import ArtifactFolder
from tests.registry_server.conftest import Root, Server
from tests.registry_server.conftest import root as root  # a fixture
from tests.registry_server.conftest import start as start  # a fixture
from tests.registry_server.test_transfers import padded

Start = Callable[..., Server]


async def call(kind: str, address: str, method: str, *args: Any, **kwargs: Any) -> Any:
    if kind == "aio":
        async with videoai.aio.RegistryClient(address) as client:
            return await getattr(client, method)(*args, **kwargs)
    with videoai.RegistryClient(address) as blocking:
        return await asyncio.to_thread(getattr(blocking, method), *args, **kwargs)


@pytest.mark.parametrize("kind", ["sync", "aio"])
async def test_a_file_goes_there_and_back(kind: str, root: Root, start: Start, tmp_path: Path) -> None:
    server, source, target = start(), tmp_path / "in.onnx", tmp_path / "out" / "out.onnx"
    source.write_bytes(padded(3_000_000))
    target.parent.mkdir()
    told: list[tuple[int, int]] = []
    model = await call(
        kind, server.address, "upload", source, "m", metrics={"map": 0.5}, progress=lambda *now: told.append(now)
    )
    assert (model.version, model.sha256) == (1, hashlib.sha256(source.read_bytes()).hexdigest())
    size = source.stat().st_size
    assert told[-1] == (size, size)
    assert await call(kind, server.address, "download", "m", 1, target) == model
    assert target.read_bytes() == source.read_bytes()
    with pytest.raises(errors.AlreadyExists):
        await call(kind, server.address, "upload", source, "m", version=1)
    with pytest.raises(errors.NotFound):
        await call(kind, server.address, "download", "m", 2, tmp_path / "out" / "none")
    (root.path / model.path).write_bytes(bytes(size))
    with pytest.raises(errors.DataLoss):
        await call(kind, server.address, "download", "m", 1, target)
    assert target.read_bytes() == source.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["out.onnx"]


async def test_a_file_is_read_as_it_comes(root: Root, start: Start, tmp_path: Path) -> None:
    server, source = start(), tmp_path / "in.onnx"
    data = padded(3_000_000)
    source.write_bytes(data)
    async with videoai.aio.RegistryClient(server.address) as client:
        model = await client.upload(source, "m")
        async with client.read("m", 1, offset_bytes=2_000_000) as (told, chunks):
            assert (told, b"".join([chunk async for chunk in chunks])) == (model, data[2_000_000:])
        with pytest.raises(errors.NotFound):
            async with client.read("m", 2):
                pass
    with videoai.RegistryClient(server.address) as blocking:
        with blocking.read("m", 1, offset_bytes=2_000_000) as (told, rest):
            assert (told, b"".join(rest)) == (model, data[2_000_000:])
        with pytest.raises(errors.NotFound), blocking.read("m", 2):
            pass
    with pytest.raises(errors.Cancelled, match="closed"), blocking.read("m", 1):
        pass


@pytest.mark.parametrize("kind", ["sync", "aio"])
async def test_a_download_survives_a_killed_registry(kind: str, root: Root, start: Start, tmp_path: Path) -> None:
    server, source, target = start(), tmp_path / "in.onnx", tmp_path / "out.onnx"
    source.write_bytes(padded(40_000_000))
    await call(kind, server.address, "upload", source, "m")
    killed: list[int] = []

    def progress(done: int, total: int) -> None:
        if not killed:
            killed.append(done)
            server.end(signal.SIGKILL)
            start("--listen", server.address)

    await call(kind, server.address, "download", "m", 1, target, progress=progress)
    assert killed[0] < source.stat().st_size
    assert target.read_bytes() == source.read_bytes()


async def test_a_cancelled_upload_leaves_nothing(root: Root, start: Start, tmp_path: Path) -> None:
    server, source = start(), tmp_path / "in.onnx"
    source.write_bytes(padded(40_000_000))
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with videoai.aio.RegistryClient(server.address) as client:
        task = asyncio.create_task(client.upload(source, "m", progress=lambda *_: loop.call_soon_threadsafe(begun.set)))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [model async for model in client.list()] == []


def test_push_and_pull(
    root: Root, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("VIDEOAI_")]:
        monkeypatch.delenv(name)
    server, source, target = start(), tmp_path / "in.onnx", tmp_path / "out.onnx"
    source.write_bytes(padded(10_000))
    where = ["--registry", server.address]
    noted = ["--description", "new", "--metric", "map=0.5", "--attribute", "k=[1]"]
    assert cli.run(["models", "push", str(source), "--name", "m", *noted, "--activate", *where]) == 0
    model = server.stub().GetProductionModel(pb.GetProductionModelRequest(model_name="m")).model
    assert (model.metadata.description, model.metadata.metrics["map"]) == ("new", 0.5)
    assert ArtifactFolder(root.path).digest(model.path).size_bytes == source.stat().st_size
    assert cli.run(["models", "pull", "m", "1", str(target), *where]) == 0
    assert target.read_bytes() == source.read_bytes()
    assert cli.run(["models", "push", str(source), "--name", "m", "--version", "1", *where]) == 1
    assert "already registered" in capsys.readouterr().err
