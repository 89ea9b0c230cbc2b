"""How benchmarks tell their results: a table of ratios taken in one run, and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from rich.console import Console
from rich.table import Table

ROUNDS = 5
FOLDER = Path("build/bench")


# Whoever is stopped ends the servers that it has started, and clears away what they were given.
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


@dataclass(frozen=True)
class Row:
    """`measured` against `reference`, medians in `unit`; the ratio is measured / reference, round by round."""

    what: str
    against: str
    unit: str
    measured: float
    reference: float
    ratio: float


def machine() -> str:
    """The machine in one line."""
    cpus = len(os.sched_getaffinity(0))
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return f"{model}, {cpus} CPUs in use, Python {platform.python_version()}"


def compare(
    what: str,
    measured: Callable[[], float],
    against: str,
    reference: Callable[[], float],
    unit: str,
    rounds: int = ROUNDS,
) -> Row:
    """Run both in turn, `rounds` times after one round to warm up, and take medians."""
    return in_pairs(what, against, unit, [(measured(), reference()) for _ in range(rounds + 1)][1:])


def in_pairs(what: str, against: str, unit: str, pairs: Sequence[tuple[float, float]]) -> Row:
    """A row of what was measured elsewhere: (measured, reference), round by round."""
    return Row(
        what,
        against,
        unit,
        median(pair[0] for pair in pairs),
        median(pair[1] for pair in pairs),
        median(pair[0] / pair[1] for pair in pairs),
    )


def rate(work: Callable[[], int]) -> float:
    """How many per second `work` gets done; it returns how many it did."""
    start = perf_counter()
    return work() / (perf_counter() - start)


def shown(rows: Iterable[Row]) -> list[Row]:
    """All of them, each told in a line as it comes: for benchmarks that may be stopped before they end."""
    told = []
    for row in rows:
        print(
            f"{row.what}: {row.measured:.1f} {row.unit}, {row.against}: {row.reference:.1f} ({row.ratio:.2f})",
            flush=True,
        )
        told.append(row)
    return told


def report(name: str, rows: Sequence[Row], notes: Mapping[str, object] | None = None) -> None:
    """Print the table and the notes, and save both as build/bench/<name>.json."""
    table = Table("what", "against", "unit", "measured", "reference", "ratio", title=f"{name} on {machine()}")
    for row in rows:
        figures = (f"{row.measured:.1f}", f"{row.reference:.1f}", f"{row.ratio:.2f}")
        table.add_row(row.what, row.against, row.unit, *figures)
    console = Console(width=140)
    console.print(table)
    for note, value in (notes or {}).items():
        console.print(f"{note}: {json.dumps(value)}", soft_wrap=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "rounds": ROUNDS, "rows": [asdict(row) for row in rows], **(notes or {})}
    (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
