"""Send mutated videos, sources and requests to a real inference server, and hold what it does against an oracle.

    python tests/fuzz/fuzz.py --cases 10000

Everything follows from the seed: case N of a run with --seed S is the seed S + N, and `--only SEED` runs one case
again. Several cases run at a time; a sound video is analysed beside them throughout, and its answers must be those
that the server gave before. In the end the server must hold what it held before the first case, and no more, and its
count of how calls ended must be that of its callers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

import av
import click
import corpus
import grpc
from case import Case, Target
from census import Holdings, Memory, leaks, open_descriptors, settled
from control import METHOD, Control
from harness import NAME
from hosts import Host
from ledger import Counts, Ledger, between, scrape
from material import SHARES, Material, gather
from mutant import SERVICE
from oracle import Outcome
from shared_memory import memories
from target import DETECTOR, Server, serve
from videoai.inference.v1 import inference_pb2 as pb
from videoai.inference.v1 import inference_pb2_grpc

FOLDER = Path("build/fuzz")
MEMORY_GROWTH = 8 * 2**20
"""Between the early and the late samples of a run, in bytes: samples differ by half of it, and 1 KB a case is more."""
SAMPLES = 100
# Cases of sources that go before all others.
FIRST = range(8)


@dataclass(slots=True)
class Run:
    """What has happened so far. `server`: how the server says that the calls of this run ended, by method and code."""

    outcomes: list[Outcome] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    server: Counts = field(default_factory=dict)
    seconds: float = 0.0


class Fuzzer:
    """A running server, and what is sent to it. `control`: what was analysed beside that, once it was."""

    control: Control

    def __init__(self, server: Server, material: Material, kinds: Collection[str]) -> None:
        self.run = Run()
        self.material = material
        self.ledger = Ledger()
        self._kinds = kinds
        self._server = server
        self._done = False

    async def all(self, numbers: Sequence[int], parallel: int, seconds: float, host: Host) -> None:
        """Run the cases and the control beside them."""
        channels = [grpc.aio.insecure_channel(self._server.process.address) for _ in range(parallel + 1)]
        targets = [Target(channel, self.ledger, host, self.material.memories) for channel in channels]
        counted = scrape(self._server.metrics)
        self.control = Control(targets.pop())
        await self.control.first()
        await self._corpus_is_sound(targets[0])
        for number in FIRST:  # what the first connections open for good is no leak
            await self.material.case(number, ("source",)).run(targets[0])
        before = await asyncio.to_thread(settled, self._server.holdings)
        began = monotonic()
        rest = itertools.takewhile(lambda _: monotonic() - began < seconds and self._server.alive, numbers)
        every = max(1, len(numbers) // SAMPLES)
        beside = asyncio.create_task(self._keep_control())
        await asyncio.gather(*(self._work(target, rest, every) for target in targets))
        self.run.seconds = monotonic() - began
        self._done = True
        await beside
        self.run.problems += self.control.problems
        await asyncio.to_thread(self._look_at_what_is_left, before, counted)
        for channel in channels:
            await channel.close()

    async def _corpus_is_sound(self, target: Target) -> None:
        """Every file is answered before it is mutated: otherwise mutants would be refused for no reason of theirs."""
        stub = target.stub(inference_pb2_grpc.InferenceServiceStub)
        config = pb.AnalyzeVideoRequest(config=pb.AnalyzeConfig(model_name=NAME))
        for name, data in self.material.sources.videos.items():
            answers = [answer async for answer in stub.AnalyzeVideo(iter((config, pb.AnalyzeVideoRequest(chunk=data))))]
            target.ledger.saw(METHOD, "OK")
            if (frames := answers[-1].summary.frames_decoded) != corpus.FRAMES:
                self.run.problems.append(f"{name} is sound, but {frames} of {corpus.FRAMES} frames were decoded")
        pictures = [pb.Picture(encoded=data) for data in self.material.sources.pictures.values()]
        await stub.AnalyzeFrames(pb.AnalyzeFramesRequest(model_name=NAME, frames=pictures))
        target.ledger.saw(f"{SERVICE}/AnalyzeFrames", "OK")

    async def _work(self, target: Target, numbers: Iterator[int], every: int) -> None:
        for number in numbers:
            case = self.material.case(number, self._kinds)
            outcome = await case.run(target)
            self.run.outcomes.append(outcome)
            self.run.problems += [
                f"case {number} ({case.kind}: {case.what}): {problem}" for problem in outcome.problems
            ]
            if outcome.contained or outcome.problems:
                save(case)
            if len(self.run.outcomes) % every == 0 and self._server.alive:
                self.run.memory.append(self._server.process.memory)
            if len(self.run.outcomes) % 1000 == 0:
                click.echo(f"{len(self.run.outcomes)} cases, {len(self.run.problems)} problems", err=True)

    async def _keep_control(self) -> None:
        while (not self._done or not self.control.runs) and await self.control.again():
            pass

    def _look_at_what_is_left(self, before: Holdings, counted: Counts) -> None:
        if not self._server.alive:
            self.run.problems.append(f"the server ended with {self._server.process.popen.returncode}")
            return
        for method in self._server.register_memories():  # and forget those that cases registered
            self.ledger.saw(method, "OK")
        after = settled(self._server.holdings, before)
        if left := leaks(before, after):
            open_now = ", ".join(open_descriptors(self._server.process.popen.pid))
            self.run.problems += [f"leak: {name}: {change}" for name, change in left.items()]
            self.run.problems.append(f"open in the server: {open_now}")
        self.run.server = between(counted, scrape(self._server.metrics))
        self.run.problems += self.ledger.differences(self.run.server)
        memory = Memory(self.run.memory)
        if memory.samples and memory.late > memory.early + MEMORY_GROWTH:
            self.run.problems.append(f"memory of the server: {memory.early} bytes early, {memory.late} late")


def save(case: Case) -> None:
    """Keep what was sent, for a debugger."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for index, data in enumerate(case.inputs):
        (FOLDER / f"case-{case.number}-{index}.bin").write_bytes(data)


def report(fuzzer: Fuzzer, seed: int) -> dict[str, Any]:
    run = fuzzer.run
    memory = Memory(run.memory or [0])
    contained = [outcome for outcome in run.outcomes if outcome.contained]
    slowest = max(run.outcomes, key=lambda outcome: outcome.seconds, default=None)
    return {
        "seed": seed,
        "cases": len(run.outcomes),
        "statuses": {
            kind: dict(Counter(outcome.status for outcome in run.outcomes if outcome.kind == kind).most_common())
            for kind in SHARES
            if any(outcome.kind == kind for outcome in run.outcomes)
        },
        "sound": sum(outcome.sound for outcome in run.outcomes),
        "frames answered": sum(outcome.frames for outcome in run.outcomes),
        "contained": [f"{one.case}: {one.contained} ({one.what})" for one in contained],
        "control": {
            "videos": fuzzer.control.runs,
            "frames": fuzzer.control.frames,
            "slowest": f"{fuzzer.control.slowest:.1f} s",
        },
        "server's count": dict(sum((Counter(codes) for codes in run.server.values()), Counter[str]())),
        "lost or cancelled by callers": fuzzer.ledger.hidden.total(),
        "server memory, MiB": {
            "early": memory.early >> 20,
            "late": memory.late >> 20,
            "after each quarter": [size >> 20 for size in memory.quarters],
            "most": max(memory.samples) >> 20,
        },
        "seconds": round(run.seconds, 1),
        "cases per second": round(len(run.outcomes) / max(run.seconds, 0.001), 1),
        "slowest": f"{slowest.seconds:.1f} s, {slowest.case} ({slowest.kind}: {slowest.what})" if slowest else None,
        "corpus": {
            "files": len(fuzzer.material.sources.videos) + len(fuzzer.material.sources.pictures),
            "left out": fuzzer.material.missing,
        },
        "corpus sha256": fuzzer.material.digest,
        "PyAV": av.__version__,
        "problems": run.problems,
    }


async def fuzz(
    root: Path, kinds: Collection[str], numbers: Sequence[int], parallel: int, seconds: float
) -> tuple[Fuzzer, str]:
    """All of it, from start to end; what the servers logged, too."""
    with memories() as shared:
        async with Host() as host:
            with serve(root, shared, host.port) as server:
                fuzzer = Fuzzer(server, gather(NAME, server.folder, shared, DETECTOR.size), kinds)
                await fuzzer.all(numbers, parallel, seconds, host)
    return fuzzer, "\n".join(process.log for process in server.pair.processes)


@click.command()
@click.option("--cases", default=10_000, show_default=True, help="Inputs to send.")
@click.option("--seconds", default=3600.0, show_default=True, help="Begin no more cases after this time.")
@click.option("--parallel", default=6, show_default=True, help="Cases under way at a time.")
@click.option("--seed", type=int, default=None, help="Repeats all choices; random by default.")
@click.option("--only", type=int, default=None, help="Run this one case again, as a report names it.")
@click.option(
    "--kind", "kinds", type=click.Choice([*SHARES]), multiple=True, help="Cases of this kind alone; repeatable."
)
def main(
    *, cases: int, seconds: float, parallel: int, seed: int | None, only: int | None, kinds: tuple[str, ...]
) -> None:
    """Send mutated videos, pictures, sources and requests to an inference server; exit with 1 if anything went wrong.

    A number is the same case as long as the kinds are the same; of one kind, it is the same in every run of that kind.
    """
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    numbers = range(seed, seed + cases) if only is None else range(only, only + 1)
    with tempfile.TemporaryDirectory(prefix="videoai-fuzz-") as folder:
        fuzzer, log = asyncio.run(fuzz(Path(folder), kinds or tuple(SHARES), numbers, parallel, seconds))
    told = report(fuzzer, seed)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "server.log").write_text(log)
    outcomes = [asdict(outcome) for outcome in fuzzer.run.outcomes]
    more = {"memory": fuzzer.run.memory, "server": fuzzer.run.server, "outcomes": outcomes}
    (FOLDER / "fuzz.json").write_text(json.dumps({**told, **more}, indent=1))
    if only is not None:
        told["outcome"] = outcomes
    click.echo(json.dumps(told, indent=2))
    sys.exit(bool(fuzzer.run.problems))


if __name__ == "__main__":
    main()
