"""Faults made by the system itself: a full disk, a read-only one, an fsync that fails, a mount, a stuck lock.

Each needs a right that not every machine gives; what is missing is said where a test is skipped.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from videoai.registry.v1 import registry_pb2 as pb
from videoai.registry.v1 import registry_pb2_grpc

Code = grpc.StatusCode
COMMAND = (sys.executable, "-m", "registry_server", "--listen", "127.0.0.1:0")


@contextmanager
def mounted(target: Path, *arguments: str) -> Iterator[None]:
    """Mount something on `target`, or skip the test."""
    if shutil.which("mount") is None:
        pytest.skip("the program mount is not installed")
    done = subprocess.run(["mount", *arguments, str(target)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(target)], check=True)


def names(root: Any) -> list[str]:
    return sorted(path.name for path in root.file.parent.iterdir() if path.is_file())


def fill(path: Path) -> None:
    """Take up all the space there is."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


QUIET = ["registry.json", "registry.json.lock"]


async def test_a_full_disk(root: Any, serve: Any, fails: Any) -> None:
    with mounted(root.file.parent, "-t", "tmpfs", "-o", "size=256k", "tmpfs"):
        path = root.add_model("m", 1)
        filler = root.file.parent / "m" / "filler"
        async with serve(root) as client:
            await client.register("m", 1, path)
            before = root.file.read_bytes()
            fill(filler)
            for _ in range(2):
                assert "No space left" in await fails(client.activate("m", 1), Code.UNAVAILABLE)
                assert (root.file.read_bytes(), names(root)) == (before, QUIET)
            filler.unlink()
            assert (await client.activate("m", 1)).model.version == 1
        assert names(root) == QUIET


async def test_a_read_only_disk(root: Any, serve: Any, fails: Any) -> None:
    models = root.file.parent
    with mounted(models, "-t", "tmpfs", "tmpfs"):
        path = root.add_model("m", 1)
        async with serve(root) as client:
            await client.register("m", 1, path)
        before = root.file.read_bytes()
        subprocess.run(["mount", "-o", "remount,ro", str(models)], check=True)
        async with serve(root) as client:
            assert "Read-only" in await fails(client.activate("m", 1), Code.UNAVAILABLE)
            listed = await client.stub.ListModels(pb.ListModelsRequest())
            assert [model.version for model in listed.models] == [1], "it serves what is there"
            assert (root.file.read_bytes(), names(root)) == (before, QUIET)
            subprocess.run(["mount", "-o", "remount,rw", str(models)], check=True)
            assert (await client.activate("m", 1)).model.version == 1


async def test_a_file_that_becomes_a_mount_of_its_own(root: Any, serve: Any, fails: Any) -> None:
    path = root.add_model("m", 1)
    async with serve(root) as client:
        await client.register("m", 1, path)
        before = root.file.read_bytes()
        with mounted(root.file, "--bind", str(root.file)):
            assert "mount the folder, not the file" in await fails(client.activate("m", 1), Code.UNAVAILABLE)
            assert (root.file.read_bytes(), names(root)) == (before, QUIET)
        assert (await client.activate("m", 1)).model.version == 1


def test_a_file_that_is_a_mount_of_its_own_is_refused_at_start(example: Any) -> None:
    with mounted(example.file, "--bind", str(example.file)):
        done = subprocess.run([*COMMAND, "--root", str(example.path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "mount the folder, not the file" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_stuck_holder_of_the_lock(root: Any, serve: Any, fails: Any) -> None:
    path = root.add_model("m", 1)
    async with serve(root, lock_timeout=0.2) as client:
        await client.register("m", 1, path)
        with root.file.with_name("registry.json.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert "registry.json.lock" in await fails(client.activate("m", 1), Code.UNAVAILABLE)
            fcntl.flock(lock, fcntl.LOCK_UN)
        assert (await client.activate("m", 1)).model.version == 1


@dataclass
class Traced:
    """A server whose system calls strace tampers with."""

    process: subprocess.Popen[str]
    stub: Any


@pytest.fixture
def traced(root: Any) -> Iterator[Callable[[str], Traced]]:
    """Start a server under strace with an injection, or skip the test."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("the program strace is not installed")
    probe = subprocess.run([program, "-e", "inject=fsync:error=EIO", "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"tracing is not permitted here: {probe.stderr.strip()}")
    with ExitStack() as stack:

        def run(injection: str) -> Traced:
            # -D: the server is our child, and the tracer goes when it goes.
            trace = [program, "-D", "-f", "-qq", "-o", os.devnull, "-e", "trace=fsync", "-e", f"inject={injection}"]
            process = stack.enter_context(
                subprocess.Popen([*trace, *COMMAND, "--root", str(root.path)], stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            assert process.stdout
            address = process.stdout.readline().strip().removeprefix("listening on ")
            channel = stack.enter_context(grpc.insecure_channel(address))
            return Traced(process, registry_pb2_grpc.ModelRegistryServiceStub(channel))

        yield run


def registration(path: str) -> pb.RegisterModelRequest:
    return pb.RegisterModelRequest(model_name="m", version=1, path=path, request_id="the same")


def test_fsync_of_the_new_file_fails(root: Any, traced: Callable[[str], Traced]) -> None:
    stub = traced("fsync:error=EIO:when=1").stub
    request = registration(root.add_model("m", 1))
    with pytest.raises(grpc.RpcError) as caught:
        stub.RegisterModel(request)
    assert caught.value.code() is Code.UNAVAILABLE
    assert "Input/output error; nothing was changed" in caught.value.details()
    assert names(root) == ["registry.json.lock"]
    assert stub.RegisterModel(request).model.version == 1
    assert names(root) == QUIET


def test_fsync_of_the_folder_fails(root: Any, traced: Callable[[str], Traced]) -> None:
    stub = traced("fsync:error=EIO:when=2").stub
    request = registration(root.add_model("m", 1))
    with pytest.raises(grpc.RpcError) as caught:
        stub.RegisterModel(request)
    assert caught.value.code() is Code.UNAVAILABLE
    assert "uncertain" in caught.value.details()
    assert names(root) == QUIET
    assert len(stub.ListModels(pb.ListModelsRequest()).models) == 1, "it was loaded again"
    assert stub.RegisterModel(request).model.version == 1
    assert len(root.document()["models"]) == 1


def test_a_disk_that_never_syncs_acknowledges_nothing(root: Any, traced: Callable[[str], Traced]) -> None:
    stub = traced("fsync:error=EIO:when=2+").stub
    request = registration(root.add_model("m", 1))
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as caught:
            stub.RegisterModel(request)
        assert caught.value.code() is Code.UNAVAILABLE
        assert "uncertain" in caught.value.details()
