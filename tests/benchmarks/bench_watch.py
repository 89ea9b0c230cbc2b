"""How fast one activation reaches 1,000 watchers, what 100 stopped ones among them change, and what each costs.

The server, all watchers and this program share the machine's CPUs. Every watcher has a connection of its own.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter

import psutil
from demo import models

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

from crowd import Crowd
from harness import Pair
from report import ROUNDS, Row, in_pairs, report

LIVE, STOPPED = 900, 100
ACTIVATIONS = 2_000
FEW = 100
ALL, QUIET = "all-follow-it", "only-those-who-are-stopped-follow-it"
QUANTILES = {"p50": 0.50, "p99": 0.99, "the last": 1.0}
Times = Sequence[float]


class Bench:
    """A registry with two versions of two models, and what is measured on it. Times are in milliseconds."""

    def __init__(self, root: Path) -> None:
        self.pair = Pair(root)
        self.versions = {name: cycle((2, 1)) for name in (ALL, QUIET)}

    def start(self, root: Path) -> None:
        self.pair.start_registry()
        for version, build in ((1, models.build_v1), (2, models.build_v2)):
            build(root / f"v{version}.onnx")
            for name in self.versions:
                self.pair.register(root / f"v{version}.onnx", version, name)
        for name in self.versions:
            self.pair.activate(1, name)

    @property
    def memory(self) -> float:
        """Of the server, resident, in KiB."""
        process = self.pair.registry_process
        assert process
        return float(psutil.Process(process.popen.pid).memory_info().rss) / 1024

    @contextmanager
    def crowd(self, count: int, *names: str) -> Iterator[Crowd]:
        crowd = Crowd(self.pair.registry_address, count, *names)
        try:
            yield crowd
        finally:
            crowd.close()

    def activate(self, name: str) -> int:
        return self.pair.activate(next(self.versions[name]), name).revision

    def spread(self, *crowds: Crowd) -> tuple[Times, Times]:
        """From the call, and from its reply, to the watchers' receipt, by quantile. Negative: before the reply."""
        called = perf_counter()
        revision = self.activate(ALL)
        replied = perf_counter()
        times = sorted(time for crowd in crowds for time in crowd.learned(revision))
        chosen = [times[round(quantile * (len(times) - 1))] for quantile in QUANTILES.values()]
        return [1000 * (time - called) for time in chosen], [1000 * (time - replied) for time in chosen]

    def spreads(self, *crowds: Crowd) -> list[tuple[Times, Times]]:
        return [self.spread(*crowds) for _ in range(ROUNDS + 1)][1:]


def rows(what: str, against: str, measured: Sequence[Times], reference: Sequence[Times]) -> Iterator[Row]:
    for index, quantile in enumerate(QUANTILES):
        pairs = [(mine[index], other[index]) for mine, other in zip(measured, reference, strict=True)]
        yield in_pairs(f"{what} {quantile}", against, "ms", pairs)


def from_call(spreads: Sequence[tuple[Times, Times]]) -> list[Times]:
    return [spread[0] for spread in spreads]


def from_reply(spreads: Sequence[tuple[Times, Times]]) -> dict[str, float]:
    return {name: median(spread[1][index] for spread in spreads) for index, name in enumerate(QUANTILES)}


def measure(bench: Bench, stack: ExitStack) -> tuple[list[Row], dict[str, object]]:
    few = stack.enter_context(bench.crowd(FEW, ALL))
    few.learned()
    few_alone = bench.spreads(few)
    few.close()
    before, started = bench.memory, perf_counter()
    crowds = [stack.enter_context(bench.crowd(LIVE, ALL)), stack.enter_context(bench.crowd(STOPPED, ALL, QUIET))]
    synced = max(time for crowd in crowds for time in crowd.learned()) - started
    each = (bench.memory - before) / (LIVE + STOPPED)
    everyone, none_stopped = bench.spreads(*crowds), bench.spreads(crowds[0])
    crowds[1].stop()
    memory = [bench.memory]
    for _ in range(ROUNDS):
        for _ in range(ACTIVATIONS // ROUNDS):
            bench.activate(QUIET)
        memory.append(bench.memory)
    some_stopped = bench.spreads(crowds[0])
    latest = bench.activate(QUIET)
    continued = perf_counter()
    crowds[1].go_on()
    caught_up = max(crowds[1].learned(latest)) - continued
    table = [
        *rows(
            f"call to receipt, {LIVE + STOPPED} watchers:", f"{FEW} watchers", from_call(everyone), from_call(few_alone)
        ),
        *rows(
            f"call to receipt, {LIVE} watchers beside {STOPPED} stopped:",
            "none stopped",
            from_call(some_stopped),
            from_call(none_stopped),
        ),
        in_pairs(
            f"server memory after {ACTIVATIONS} activations that {STOPPED} stopped watchers follow",
            "before",
            "MiB",
            [(memory[-1] / 1024, memory[0] / 1024)],
        ),
    ]
    return table, {
        f"ms from the reply to receipt, {LIVE + STOPPED} watchers": from_reply(everyone),
        f"ms from the reply to receipt, {LIVE} beside {STOPPED} stopped": from_reply(some_stopped),
        f"s until {LIVE + STOPPED} watchers are connected and synced, their own start included": synced,
        "KiB of server memory for each watcher": each,
        f"MiB of server memory, each {ACTIVATIONS // ROUNDS} activations": [kib / 1024 for kib in memory],
        "s until those who were stopped have all learned the latest": caught_up,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        (root / "models").mkdir()
        bench = Bench(root)
        stack.callback(bench.pair.close)
        bench.start(root)
        table, notes = measure(bench, stack)
    report("watch", table, notes)


if __name__ == "__main__":
    main()
