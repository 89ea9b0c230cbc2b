"""What calls and a start cost a registry of 100,000 entries against one of 10, over gRPC; what many writers gain.

Server and client share the machine's CPUs. Calls go one after the other, but for the writers.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import grpc
import psutil
from videoai.registry.v1 import registry_pb2 as pb
from videoai.registry.v1 import registry_pb2_grpc

from registry_server import locations
from registry_server.artifacts import ArtifactFolder
from registry_server.catalog import Catalog
from registry_server.files import Files
from registry_server.json_storage import JsonFileStorage
from registry_server.registry import Registry, open_registry
from registry_server.storage import Storage

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

from bench_storage import FILE, VERSIONS, entry
from harness import Process
from report import ROUNDS, Row, compare, in_pairs, report

SMALL, MIDDLE, LARGE = 10, 10_000, 100_000
CALLS = 200
WRITES = 8
WRITERS, EACH = 64, 10
NAME = "model-0"


def document(size: int) -> dict[str, Any]:
    return {"models": [entry(number) for number in range(size)]}


def prepare(folder: Path, scheme: str, size: int) -> tuple[Path, str]:
    """A root with a registry of so many entries, and the flag that names its storage."""
    root = folder / f"{scheme}-{size}"
    (root / "models").mkdir(parents=True)
    (root / "models" / "model.onnx").write_bytes(FILE)
    url = f"{scheme}:models/registry"
    with closing(locations.parse(url).under(root).open(5)) as storage:
        storage.transact(lambda _: Catalog.read(document(size)))
    return root, url


@dataclass
class Served:
    """A server process over a prepared root, and the calls that are measured on it, in milliseconds each."""

    process: Process
    stub: Any
    starting: float
    versions: Iterator[int] = field(default_factory=lambda: cycle((*range(2, VERSIONS + 1), 1)))

    @property
    def mebibytes(self) -> float:
        return float(psutil.Process(self.process.popen.pid).memory_info().rss) / 2**20

    def get_production_model(self) -> None:
        self.stub.GetProductionModel(pb.GetProductionModelRequest(model_name=NAME))

    def get_model(self) -> None:
        self.stub.GetModel(pb.GetModelRequest(model_name=NAME, version=7))

    def list_models(self) -> None:
        assert len(self.stub.ListModels(pb.ListModelsRequest(page_size=SMALL)).models) == SMALL

    def watch(self) -> None:
        call = self.stub.WatchProduction(pb.WatchProductionRequest(model_names=[NAME]))
        assert [next(call).WhichOneof("event") for _ in range(2)] == ["activated", "synced"]
        call.cancel()

    def activate(self) -> None:
        self.stub.ActivateModelVersion(pb.ActivateModelVersionRequest(model_name=NAME, version=next(self.versions)))

    def list_after_a_change(self) -> float:
        taken = []
        for _ in range(WRITES):
            self.activate()
            taken.append(seconds(self.list_models))
        return 1000 * median(taken)


@contextmanager
def served(folder: Path, scheme: str, size: int) -> Iterator[Served]:
    root, url = prepare(folder, scheme, size)
    started = perf_counter()
    process = Process("registry_server", "--root", str(root), "--listen", "127.0.0.1:0", "--storage", url)
    try:
        process.wait_until_listening()
        starting = perf_counter() - started
        with grpc.insecure_channel(process.address) as channel:
            yield Served(process, registry_pb2_grpc.ModelRegistryServiceStub(channel), starting)
    finally:
        process.kill()


def seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def each(work: Callable[[], object], times: int) -> Callable[[], float]:
    """Makes so many calls; the median of their milliseconds."""
    return lambda: 1000 * median(seconds(work) for _ in range(times))


def alternately(what: str, first: Callable[[], object], second: Callable[[], object], times: int) -> Row:
    """Both in turn, call by call, so that what else the machine does meets both alike."""

    def once() -> tuple[float, float]:
        taken = [(seconds(first), seconds(second)) for _ in range(times)]
        return 1000 * median(pair[0] for pair in taken), 1000 * median(pair[1] for pair in taken)

    return in_pairs(what, f"at {SMALL}", "ms", [once() for _ in range(ROUNDS + 1)][1:])


READS = {
    "GetProductionModel": Served.get_production_model,
    "GetModel": Served.get_model,
    f"ListModels, a page of {SMALL}": Served.list_models,
    "WatchProduction of one model, until synced": Served.watch,
}


def growth(folder: Path, scheme: str) -> Iterator[Row]:
    """The calls on many entries against the same calls on few, each by a server of its own."""
    with served(folder, scheme, LARGE) as large, served(folder, scheme, SMALL) as small:
        yield in_pairs(f"start of the server, {scheme}", f"at {SMALL}", "s", [(large.starting, small.starting)])
        yield in_pairs(f"its memory, {scheme}", f"at {SMALL}", "MiB", [(large.mebibytes, small.mebibytes)])
        for what, call in READS.items():
            yield alternately(f"{what}, {scheme}", partial(call, large), partial(call, small), CALLS)
        yield compare(
            f"ListModels right after a change, {scheme}",
            large.list_after_a_change,
            f"at {SMALL}",
            small.list_after_a_change,
            "ms",
        )
        times = WRITES if scheme == "file" else CALLS
        yield alternately(f"ActivateModelVersion at {LARGE}, {scheme}", large.activate, small.activate, times)
        yield in_pairs(f"memory after changes, {scheme}", f"at {SMALL}", "MiB", [(large.mebibytes, small.mebibytes)])


def file_growth(folder: Path) -> Iterator[Row]:
    """How what writes the whole file grows on the way to LARGE."""
    with served(folder, "file", SMALL) as small:
        for size in (1_000, MIDDLE):
            with served(folder, "file", size) as server:
                measured, reference = each(server.activate, WRITES), each(small.activate, WRITES)
                yield compare(f"ActivateModelVersion at {size}, file", measured, f"at {SMALL}", reference, "ms")


def least(folder: Path) -> Callable[[], float]:
    """Milliseconds to lay out the file, write it and sync it and its folder, with nothing else done."""
    file, content = folder / "least", document(MIDDLE)

    def work() -> None:
        data = (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
        with file.open("wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    return lambda: 1000 * seconds(work)


def against_the_least(folder: Path) -> Iterator[Row]:
    with served(folder, "file", MIDDLE) as server:
        what = f"ActivateModelVersion at {MIDDLE}, file"
        yield compare(what, each(server.activate, 5), "lay out, write and 2 fsync", least(folder), "ms")


class Counted(Files):
    """Counts the fsyncs."""

    syncs = 0

    def sync(self, descriptor: int) -> None:
        self.syncs += 1
        super().sync(descriptor)


async def rate(registry: Registry, writers: int) -> float:
    """Activations per second of so many writers, each of a model of its own and with one under way at a time."""

    async def write(name: str) -> None:
        for _ in range(EACH):
            await registry.activate(name, registry.catalog.production(name).version % VERSIONS + 1)

    start = perf_counter()
    await asyncio.gather(*(write(f"model-{number}") for number in range(writers)))
    return writers * EACH / (perf_counter() - start)


def many_writers(folder: Path, notes: dict[str, object]) -> Iterator[Row]:
    """Within one process, without gRPC, so that only the registry and its storage count."""
    for scheme in locations.STORAGES:
        root, url = prepare(folder, scheme, WRITERS * VERSIONS)
        location, files = locations.parse(url).under(root), Counted()
        storage: Storage = JsonFileStorage(location.path, files=files) if scheme == "file" else location.open(5)
        with asyncio.Runner() as runner:
            stack = AsyncExitStack()
            registry = runner.run(stack.enter_async_context(open_registry(storage, ArtifactFolder(root))))

            def run(writers: int, runner: asyncio.Runner = runner, registry: Registry = registry) -> float:
                return runner.run(rate(registry, writers))

            what = f"activations by {WRITERS} writers, {scheme}"
            yield compare(what, partial(run, WRITERS), "1 writer", partial(run, 1), "1/s")
            for writers in (1, WRITERS) if scheme == "file" else ():
                files.syncs = 0
                run(writers)
                notes[f"fsyncs for each activation, {scheme}, {writers} at a time"] = files.syncs / (writers * EACH)
            runner.run(stack.aclose())


def main() -> None:
    notes: dict[str, object] = {}
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place)
        rows = [*against_the_least(folder / "least"), *many_writers(folder / "writers", notes)]
        rows += file_growth(folder / "steps")
        for scheme in locations.STORAGES:
            rows += growth(folder / scheme, scheme)
    report("scale", rows, notes)


if __name__ == "__main__":
    main()
