"""Kill registry servers with SIGKILL at random moments while they write, and hold what is left against an oracle.

    python tests/crash/crash.py --kills 1000

Servers are real ones, on real sockets and files, forked from a process that has loaded everything. Several writers,
each with a model of its own, keep changes under way at all times, so that several of them share a write. After each
kill the bytes on disk must be a whole registry; after the restart every acknowledged change must be there, a change
whose answer never came must be there wholly or not at all, and no temporary file may be left.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import sys
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic
from typing import Any

import click
import grpc
import onnx
from onnx import TensorProto, helper
from oracle import Model, Version, Versions
from stores import Store, store
from videoai.registry.v1 import registry_pb2 as pb
from videoai.registry.v1 import registry_pb2_grpc

FORKS = multiprocessing.get_context("forkserver")
LONGEST_SECONDS = 0.12
"""A kill comes at a random moment of this time from the first change on: several changes, and every phase of them."""
CALL_SECONDS = 30


def serve(root: str, flags: list[str], output: Connection, log: str) -> None:
    """The body of a server process; `output` takes the place of its standard output."""
    from registry_server.__main__ import main as registry

    os.dup2(output.fileno(), 1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    registry(["--root", root, "--listen", "127.0.0.1:0", *flags], standalone_mode=False)


class Server:
    """A running server and a stub on it."""

    def __init__(self, process: BaseProcess, address: str) -> None:
        self.process = process
        self.channel = grpc.aio.insecure_channel(address)
        self.stub: Any = registry_pb2_grpc.ModelRegistryServiceStub(self.channel)

    @classmethod
    async def start(cls, root: Path, flags: list[str]) -> Server:
        return cls(*await asyncio.to_thread(cls._start, root, flags))

    @staticmethod
    def _start(root: Path, flags: list[str]) -> tuple[BaseProcess, str]:
        ours, theirs = FORKS.Pipe(duplex=False)
        log = root / "server.log"
        process = FORKS.Process(target=serve, args=(str(root), flags, theirs, str(log)), daemon=True)
        process.start()
        theirs.close()
        with os.fdopen(os.dup(ours.fileno())) as lines:
            line = lines.readline().strip()
        ours.close()
        if not line.startswith("listening on "):
            raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
        return process, line.removeprefix("listening on ")

    async def kill(self) -> None:
        self.process.kill()
        await asyncio.to_thread(self.process.join)

    async def versions(self, name: str) -> Versions:
        answer = await self.stub.ListModels(pb.ListModelsRequest(model_name=name), timeout=CALL_SECONDS)
        return {model.version: Version(model.status, model.metadata.description) for model in answer.models}


class Harness:
    """Rounds of writing, killing, restarting and checking over one folder."""

    def __init__(self, root: Path, on: Store, *, servers: int, writers: int, rng: random.Random) -> None:
        self._root, self._store, self._rng = root, on, rng
        self._models = [Model(f"m{index}", add_model(root, f"m{index}")) for index in range(writers)]
        self._servers: list[Server | None] = [None] * servers
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    async def round(self) -> None:
        """Write, kill one server at a random moment, let the others finish, restart it, check."""
        await self._start_missing()
        stop = asyncio.Event()
        writing = [
            asyncio.create_task(self._write(model, self._servers[index % len(self._servers)], stop))
            for index, model in enumerate(self._models)
        ]
        watching = asyncio.create_task(self._watch_file(stop))
        await asyncio.sleep(self._rng.uniform(0, LONGEST_SECONDS))
        victim = self._rng.randrange(len(self._servers))
        await self._kill(victim)
        stop.set()
        await asyncio.gather(*writing, watching)
        await self._start_missing()
        await self._check(self._servers[victim])

    async def close(self) -> None:
        for server in filter(None, self._servers):
            await server.kill()
            await server.channel.close()

    async def _start_missing(self) -> None:
        for index, server in enumerate(self._servers):
            if server is None:
                self._servers[index] = await Server.start(self._root, list(self._store.flags))

    async def _kill(self, index: int) -> None:
        server, self._servers[index] = self._servers[index], None
        assert server is not None
        await server.kill()
        self.counts["kills"] += 1
        self.counts["kills that left a temporary file"] += len(self._servers) == 1 and bool(self._store.leftover())
        self._look()
        await server.channel.close()

    def _look(self) -> None:
        self.counts["looks at the file"] += 1
        torn = self._store.torn()
        if torn is not None:
            self.counts["torn"] += 1
            self.problems.append(f"torn: {torn}")

    async def _watch_file(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._look()
            await asyncio.sleep(0.01)

    async def _write(self, model: Model, server: Server | None, stop: asyncio.Event) -> None:
        assert server is not None
        while not stop.is_set():
            change = model.choose(self._rng)
            try:
                await getattr(server.stub, change.call)(change.request, timeout=CALL_SECONDS)
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                self._unanswered(change.call, error)
                return
            model.acknowledge()
            self.counts["acknowledged changes"] += 1

    def _unanswered(self, call: str, error: BaseException) -> None:
        """Only a server that is gone may leave a change without an OK: all changes are allowed ones."""
        if isinstance(error, grpc.aio.AioRpcError) and (
            error.code() not in _GONE or "registry" in str(error.details())
        ):
            self.problems.append(f"{call}: {error.code()} {error.details()}")

    async def _check(self, server: Server | None) -> None:
        assert server is not None
        for name in self._store.leftover():
            self.counts["leftover files"] += 1
            self.problems.append(f"leftover: {name}")
        for model in self._models:
            found = await server.versions(model.name)
            problem = model.problem(found)
            if problem is not None:
                self.counts["lost"] += 1
                self.problems.append(f"lost: {problem}")
            elif model.pending is not None:
                found = await self._repeat(model, server, found)
            model.settle(found)

    async def _repeat(self, model: Model, server: Server, found: Versions) -> Versions:
        """A change without an answer is sent again, as a client would: it must then have happened, once."""
        change = model.pending
        assert change is not None
        self.counts[
            "unanswered changes found made" if found == change.after else "unanswered changes found unmade"
        ] += 1
        if not change.repeatable:
            return found
        await getattr(server.stub, change.call)(change.request, timeout=CALL_SECONDS)
        found = await server.versions(model.name)
        if found != change.after:
            self.counts["lost"] += 1
            self.problems.append(f"repeated {change.call} of {model.name}: found {found}, expected {change.after}")
        return found


_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)


def add_model(root: Path, name: str) -> str:
    """A small real model file; returns its path as entries spell it."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], name, [value], [result])
    file = root / "models" / name / "model.onnx"
    file.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), file)
    return str(file.relative_to(root))


async def run(harness: Harness, kills: int, seconds: float) -> None:
    """Rounds until the number of kills or the time is reached, or something is wrong."""
    began = monotonic()
    try:
        while harness.counts["kills"] < kills and monotonic() - began < seconds and not harness.problems:
            await harness.round()
            if harness.counts["kills"] % 100 == 0:
                click.echo(f"{harness.counts['kills']} kills, {monotonic() - began:.0f} s", err=True)
    finally:
        await harness.close()


@click.command()
@click.option("--kills", default=1000, show_default=True, help="Kills to do.")
@click.option("--seconds", default=float("inf"), help="Stop after this time even so.")
@click.option("--storage", default="json", show_default=True, help="json, or sqlite:///NAME of a database in models/.")
@click.option(
    "--servers", default=1, show_default=True, help="Servers over the one folder; one of them is killed at a time."
)
@click.option("--writers", default=4, show_default=True, help="Changes under way at a time.")
@click.option("--seed", type=int, default=None, help="Repeats the choices, though not the moments.")
def main(*, kills: int, seconds: float, storage: str, servers: int, writers: int, seed: int | None) -> None:
    """Kill writing registry servers and check what is left; exit with 1 if anything was lost, torn or left over."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    FORKS.set_forkserver_preload(["__main__", "registry_server.__main__"])
    with tempfile.TemporaryDirectory(prefix="videoai-crash-") as folder:
        root = Path(folder)
        (root / "models").mkdir()
        rng = random.Random(seed)  # noqa: S311 - choices, not secrets
        harness = Harness(root, store(storage, root / "models"), servers=servers, writers=writers, rng=rng)
        began = monotonic()
        asyncio.run(run(harness, kills, seconds))
    verdict = {key: harness.counts[key] for key in ("kills", "acknowledged changes", "lost", "torn", "leftover files")}
    report = {
        "storage": storage,
        "seed": seed,
        **verdict,
        **dict(harness.counts),
        "seconds": round(monotonic() - began),
    }
    click.echo(json.dumps(report, indent=2))
    for problem in harness.problems:
        click.echo(problem, err=True)
    sys.exit(bool(harness.problems))


if __name__ == "__main__":
    main()
