"""What an activation costs as a registry grows, on each storage: from the call to its durable, published answer."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from registry_server import locations
from registry_server.artifacts import ArtifactFolder
from registry_server.catalog import Catalog
from registry_server.registry import Registry, open_registry

sys.path.insert(0, str(Path(__file__).parent))

from report import Row, compare, report

SMALL, LARGE = 10, 10_000
VERSIONS = 10
ACTIVATIONS = 10
FILE = b"a model file"


def entry(number: int) -> dict[str, Any]:
    """One of many: models of VERSIONS versions each, the first in production, described as a registration does."""
    name, version = f"model-{number // VERSIONS}", number % VERSIONS + 1
    spec = {"name": "images", "datatype": "FP32", "shape": [-1, 3, 640, 640]}
    return {
        "model_name": name,
        "version": version,
        "path": "models/model.onnx",
        "status": "production" if version == 1 else "staging",
        "creation_timestamp": "2026-01-01T00:00:00.000Z",
        "metadata": {"description": "one of many", "metrics": {"map50": 0.5, "latency_ms": 8}},
        "sha256": hashlib.sha256(FILE).hexdigest(),
        "size_bytes": len(FILE),
        "inputs": [spec],
        "outputs": [spec],
    }


@contextmanager
def activations(runner: asyncio.Runner, folder: Path, scheme: str, size: int) -> Iterator[Callable[[], float]]:
    """Gives what makes ACTIVATIONS activations in a registry of `size` entries: median milliseconds of one."""
    root = folder / f"{scheme}-{size}"
    (root / "models").mkdir(parents=True)
    (root / "models" / "model.onnx").write_bytes(FILE)
    location = locations.parse(f"{scheme}:models/registry").under(root)
    with closing(location.open(5)) as storage:
        storage.transact(lambda _: Catalog.read({"models": [entry(number) for number in range(size)]}))
    stack = AsyncExitStack()
    registry = runner.run(stack.enter_async_context(open_registry(location.open(5), ArtifactFolder(root))))
    try:
        yield lambda: runner.run(activate(registry))
    finally:
        runner.run(stack.aclose())


async def activate(registry: Registry) -> float:
    taken = []
    for _ in range(ACTIVATIONS):
        version = registry.catalog.production("model-0").version % VERSIONS + 1
        start = perf_counter()
        await registry.activate("model-0", version)
        taken.append(perf_counter() - start)
    return median(taken) * 1000


def measure(folder: Path) -> Iterator[Row]:
    with asyncio.Runner() as runner:
        for scheme in locations.STORAGES:
            with (
                activations(runner, folder, scheme, LARGE) as large,
                activations(runner, folder, scheme, SMALL) as small,
            ):
                yield compare(f"activation at {LARGE} entries, {scheme}:", large, f"at {SMALL}", small, "ms")
        with (
            activations(runner, folder / "both", "sqlite", LARGE) as measured,
            activations(runner, folder / "both", "file", LARGE) as reference,
        ):
            yield compare(f"activation at {LARGE} entries, sqlite:", measured, "file:", reference, "ms")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=".") as place:
        report("storage", list(measure(Path(place))))
