"""Files from a registry that is slow, goes away or lies: a real socket, and a servicer that does as it is told."""

import asyncio
import errno
import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
import pytest
from grpc import StatusCode as Code
from videoai import RegistryClient
from videoai.registry.v1 import registry_pb2, registry_pb2_grpc

from inference_server import cache as cache_module
from inference_server import fetching
from inference_server.cache import ModelCache
from inference_server.engine import ModelVersion
from inference_server.errors import ModelRefused
from inference_server.fetching import ModelFiles

DATA = b"".join(bytes([number]) * 1000 for number in range(10))
SHA256 = hashlib.sha256(DATA).hexdigest()


class Registry(registry_pb2_grpc.ModelRegistryServiceServicer):
    """Gives DATA, or what a test makes of it."""

    def __init__(self):
        self.data = DATA
        self.sha256 = SHA256
        self.size = len(DATA)
        self.failures = []  # codes of the next calls
        self.break_at = None  # the next call that comes so far ends there with UNAVAILABLE, once `may_break`
        self.may_break = threading.Event()
        self.hang_at = None  # every call that comes so far hangs there
        self.offsets = []
        self.asked = threading.Event()

    def DownloadModel(self, request, context):  # noqa: N802
        self.offsets.append(request.offset_bytes)
        self.asked.set()
        if self.failures:
            context.abort(self.failures.pop(0), "as told")
        yield registry_pb2.DownloadModelResponse(
            model=registry_pb2.Model(sha256=self.sha256, size_bytes=self.size, model_name=request.model_name)
        )
        for position in range(request.offset_bytes, len(self.data), 1000):
            if position == self.break_at:
                # What a client has not taken when the status comes, gRPC may drop.
                while context.is_active() and not self.may_break.wait(0.01):
                    pass
                if not context.is_active():
                    return  # it asked for the size alone
                self.break_at = None
                context.abort(Code.UNAVAILABLE, "gone")
            if position == self.hang_at:
                while context.is_active():
                    time.sleep(0.01)
                return
            yield registry_pb2.DownloadModelResponse(chunk=self.data[position : position + 1000])


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def address(registry):
    server = grpc.server(ThreadPoolExecutor(8))
    registry_pb2_grpc.add_ModelRegistryServiceServicer_to_server(registry, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(fetching, "BACKOFF", fetching.Backoff(0.01, 0.01))
    monkeypatch.setattr(fetching, "ELSEWHERE_SECONDS", 0.01)


@pytest.fixture
def cache(tmp_path):
    return ModelCache(tmp_path / "cache", 25_000)


@pytest.fixture
async def files(address, cache):
    files = ModelFiles(partial(RegistryClient, address), cache)
    yield files
    await files.close()


@pytest.fixture
def version(tmp_path):
    return ModelVersion("thing", 1, tmp_path / "models" / "model.onnx", SHA256)


async def find(files, version):
    async with asyncio.timeout(30):
        return await files.find(version, asyncio.Event())


async def refusal(files, version):
    with pytest.raises(ModelRefused) as refused:
        await find(files, version)
    return str(refused.value)


def parts(cache):
    return [path for path in cache.folder.iterdir() if path.suffix == ".part"] if cache.folder.exists() else []


async def written(cache, size):
    """Wait until so many bytes of a file are in the cache."""
    async with asyncio.timeout(30):
        while [path.stat().st_size for path in parts(cache)] != [size]:
            await asyncio.sleep(0.01)


async def test_a_file_is_fetched_once_and_then_cached(files, version, cache, registry):
    for _ in range(2):
        held = await find(files, version)
        assert held.path == cache.folder / f"{SHA256}.onnx"
        assert held.path.read_bytes() == DATA
        held.release()
    assert registry.offsets == [0, 0]  # one to learn its size
    assert parts(cache) == []


@pytest.mark.parametrize("what", ["file", "folder", "dangling link"])
async def test_what_lies_on_the_volume_is_left_to_the_engine(files, version, cache, registry, what):
    version.path.parent.mkdir()
    if what == "file":
        version.path.write_bytes(b"changed")
    elif what == "folder":
        version.path.mkdir()
    else:
        version.path.symlink_to("nothing")
    assert (await find(files, version)).path == version.path
    assert registry.offsets == []
    assert not cache.folder.exists()


async def test_where_fetching_is_off_nothing_is_fetched(address, version, registry):
    files = ModelFiles(partial(RegistryClient, address), None)
    assert (await find(files, version)).path == version.path
    assert registry.offsets == []


async def test_without_a_digest_nothing_is_fetched(files, tmp_path, registry):
    assert "without a sha256" in await refusal(files, ModelVersion("thing", 1, tmp_path / "none"))
    assert registry.offsets == []


async def test_what_broke_off_goes_on_where_it_was(files, version, cache, registry):
    registry.failures = [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.INTERNAL]
    registry.break_at = 4000
    task = asyncio.create_task(find(files, version))
    await written(cache, 4000)
    registry.may_break.set()
    held = await task
    assert held.path.read_bytes() == DATA
    assert registry.offsets[-2:] == [0, 4000]
    held.release()


async def test_what_another_server_left_is_gone_on_with(files, version, cache, registry):
    part = cache.begin(SHA256, len(DATA))
    part.write(DATA[:6000])
    part.close()
    (await find(files, version)).release()
    assert registry.offsets == [0, 6000]


async def test_what_another_server_left_damaged_is_fetched_anew(files, version, cache, registry):
    part = cache.begin(SHA256, len(DATA))
    part.write(b"?" * 6000)
    part.close()
    held = await find(files, version)
    assert held.path.read_bytes() == DATA
    assert registry.offsets == [0, 6000, 0]
    held.release()


async def test_a_damaged_file_of_the_cache_is_fetched_anew(files, version, registry):
    held = await find(files, version)
    held.release()
    held.path.write_bytes(DATA[:-1] + b"?")
    held = await find(files, version)
    assert held.path.read_bytes() == DATA
    assert len(registry.offsets) == 4
    held.release()


async def test_a_file_is_fetched_once_for_many(files, version, cache, registry):
    registry.hang_at = 5000
    first = asyncio.create_task(find(files, version))
    await written(cache, 5000)
    others = [asyncio.create_task(find(files, version)) for _ in range(3)]
    while len(registry.offsets) < 5:  # each has asked for the size
        await asyncio.sleep(0.01)
    assert len(parts(cache)) == 1
    registry.hang_at = None
    first.cancel()  # and one of the others takes over
    held = await asyncio.gather(*others)
    assert sum(offset > 0 for offset in registry.offsets) == 1
    for one in held:
        assert one.path.read_bytes() == DATA
        one.release()


@pytest.mark.parametrize("gone", [False, True])
async def test_a_version_that_is_superseded_is_given_up_at_once(files, version, cache, registry, gone):
    registry.hang_at = 5000
    if gone:
        registry.failures = [Code.UNAVAILABLE] * 100_000
    superseded = asyncio.Event()
    task = asyncio.create_task(files.find(version, superseded))
    if gone:
        await asyncio.to_thread(registry.asked.wait, 30)
    else:
        await written(cache, 5000)
    superseded.set()
    assert await asyncio.wait_for(task, 30) is None
    assert len(parts(cache)) == (not gone)


@pytest.mark.parametrize(
    "code", [Code.NOT_FOUND, Code.DATA_LOSS, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED, Code.PERMISSION_DENIED]
)
async def test_what_the_registry_refuses_is_refused(files, version, registry, code):
    registry.failures = [code]
    assert "the registry does not give the file: as told" in await refusal(files, version)
    assert registry.offsets == [0]


async def test_another_file_than_announced_is_refused(files, version, cache, registry):
    registry.sha256 = "0" * 64
    assert f"sha256: expected {SHA256}, the registry gives a file with {'0' * 64}" in await refusal(files, version)
    assert parts(cache) == []


@pytest.mark.parametrize("data", [DATA[:-1] + b"?", DATA[:-1], DATA + b"?", b""])
async def test_other_bytes_than_announced_are_refused_and_not_kept(files, version, cache, registry, data):
    registry.data = data
    reason = await refusal(files, version)
    assert "sha256: expected" in reason or "size_bytes: expected 10000" in reason
    assert [path.name for path in cache.folder.iterdir()] == ["lock"]


async def test_a_file_that_does_not_fit_is_refused(files, version, cache, registry):
    registry.size = 25_001
    assert "--max-cache-bytes" in await refusal(files, version)


async def test_a_digest_that_is_a_path_is_refused(files, version, registry, tmp_path):
    assert "sha256: expected 64" in await refusal(files, ModelVersion("thing", 1, version.path, "../../etc/passwd"))
    assert registry.offsets == []


async def test_a_full_disk_is_the_reason_given_and_keeps_nothing(files, version, cache, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module.os, "write", full)
    assert f"the cache {cache.folder} cannot be used: {os.strerror(errno.ENOSPC)}" in await refusal(files, version)
    assert parts(cache) == []


async def test_a_cache_that_changes_what_it_is_given_is_refused_in_the_end(files, version, cache, monkeypatch):
    place = ModelCache.place

    def spoil(self, part, sha256):
        part.write_bytes(b"?" * len(DATA))
        place(self, part, sha256)

    monkeypatch.setattr(ModelCache, "place", spoil)
    assert "lost or changed" in await refusal(files, version)
