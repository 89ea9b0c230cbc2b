"""Send mutated videos and pictures to a real inference server, and hold what it does against an oracle.

    python tests/fuzz/fuzz.py --cases 10000

Everything follows from the seed: case N of a run with --seed S is the seed S + N, and `--only SEED` runs one case
again. Several cases run at a time; a sound video is analysed beside them throughout, and its answers must be those that
the server gave before. In the end the server must hold what it held before the first case, and no more.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import av
import click
import corpus
import grpc
import psutil
from census import Holdings, Memory, leaks, settled, take
from demo import models, scene
from mutant import Case
from oracle import Outcome, comparable
from videoai.inference.v1 import inference_pb2 as pb
from videoai.inference.v1 import inference_pb2_grpc

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

from harness import NAME, Pair

FOLDER = Path("build/fuzz")
CONTROL = corpus.Recipe("mp4", "libx264", {"preset": "veryfast", "threads": "1"}, {"movflags": "faststart"})
CONTROL_FRAMES, CONTROL_SIZE = 40, (320, 240)
DETECTOR = models.Detector(192, 32, (models.RED_CIRCLE, models.GREEN_SQUARE, models.BLUE_DIAMOND), any_batch=False)
MEMORY_GROWTH = 32 * 2**20
"""What the allocator may keep between the early and the late samples of a long run, in bytes."""
SAMPLES = 100


@dataclass(slots=True)
class Run:
    """What has happened so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    control_frames: int = 0
    control_runs: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Fuzzer:
    """A running server, and what is sent to it."""

    def __init__(self, pair: Pair, spool: Path) -> None:
        assert pair.inference_process
        self.run = Run()
        self.videos, self.missing = corpus.videos()
        self.pictures = corpus.pictures()
        self._pair, self._spool = pair, spool
        self._process = pair.inference_process
        self._control = corpus.encode(CONTROL, CONTROL_FRAMES, CONTROL_SIZE)
        self._done = False

    @property
    def corpus_digest(self) -> str:
        """Tells whether a case would be the same bytes elsewhere."""
        files = [*self.videos.items(), *self.pictures.items()]
        return hashlib.sha256(b"".join(name.encode() + data for name, data in files)).hexdigest()

    def case(self, number: int) -> Case:
        return Case(number, self.videos, self.pictures, NAME)

    async def all(self, numbers: Sequence[int], parallel: int, seconds: float) -> None:
        """Run the cases and the control beside them."""
        channels = [grpc.aio.insecure_channel(self._process.address) for _ in range(parallel + 1)]
        *stubs, control = [inference_pb2_grpc.InferenceServiceStub(channel) for channel in channels]
        expected = await self._analyze_control(control)
        self.run.problems += control_problems(expected)
        await self._corpus_is_sound(stubs[0])
        before = await asyncio.to_thread(settled, self._holdings)
        began = monotonic()
        rest = itertools.takewhile(lambda _: monotonic() - began < seconds and self._alive(), numbers)
        every = max(1, len(numbers) // SAMPLES)
        beside = asyncio.create_task(self._keep_control(control, comparable(expected)))
        await asyncio.gather(*(self._work(stub, rest, every) for stub in stubs))
        self.run.seconds = monotonic() - began
        self._done = True
        await beside
        await asyncio.to_thread(self._look_for_leaks, before)
        for channel in channels:
            await channel.close()

    async def _corpus_is_sound(self, stub: Any) -> None:
        """Every file is answered before it is mutated: otherwise mutants would be refused for no reason of theirs."""
        config = pb.AnalyzeVideoRequest(config=pb.AnalyzeConfig(model_name=NAME))
        for name, data in self.videos.items():
            answers = [answer async for answer in stub.AnalyzeVideo(iter((config, pb.AnalyzeVideoRequest(chunk=data))))]
            if (frames := answers[-1].summary.frames_decoded) != corpus.FRAMES:
                self.run.problems.append(f"{name} is sound, but {frames} of {corpus.FRAMES} frames were decoded")
        pictures = [pb.Picture(encoded=data) for data in self.pictures.values()]
        await stub.AnalyzeFrames(pb.AnalyzeFramesRequest(model_name=NAME, frames=pictures))

    async def _work(self, stub: Any, numbers: Iterator[int], every: int) -> None:
        for number in numbers:
            case = self.case(number)
            outcome = await case.run(stub)
            self.run.outcomes.append(outcome)
            self.run.problems += [f"case {number} ({case.what}): {problem}" for problem in outcome.problems]
            if outcome.contained or outcome.problems:
                save(case)
            if len(self.run.outcomes) % every == 0 and self._alive():
                self.run.memory.append(psutil.Process(self._process.popen.pid).memory_info().rss)
            if len(self.run.outcomes) % 1000 == 0:
                click.echo(f"{len(self.run.outcomes)} cases, {len(self.run.problems)} problems", err=True)

    async def _keep_control(self, stub: Any, expected: list[bytes]) -> None:
        while not self._done or not self.run.control_runs:
            try:
                found = await self._analyze_control(stub)
            except grpc.aio.AioRpcError as error:
                self.run.problems.append(f"control: {error.code().name}: {error.details()}")
                return
            if comparable(found) != expected:
                self.run.problems.append("control: answered otherwise than before")
            self.run.control_runs += 1
            self.run.control_frames += len(found) - 2

    async def _analyze_control(self, stub: Any) -> list[pb.AnalyzeVideoResponse]:
        requests = [
            pb.AnalyzeVideoRequest(config=pb.AnalyzeConfig(model_name=NAME)),
            *(pb.AnalyzeVideoRequest(chunk=self._control[at : at + 4096]) for at in range(0, len(self._control), 4096)),
        ]
        return [response async for response in stub.AnalyzeVideo(iter(requests), timeout=120)]

    def _alive(self) -> bool:
        return self._process.popen.poll() is None

    def _holdings(self) -> Holdings:
        state = self._pair.inference.GetServingState(pb.GetServingStateRequest(), timeout=30)
        return take(self._process.popen.pid, self._spool, state.active_streams)

    def _look_for_leaks(self, before: Holdings) -> None:
        if not self._alive():
            self.run.problems.append(f"the server ended with {self._process.popen.returncode}")
            return
        after = settled(self._holdings, before)
        self.run.problems += [f"leak: {name}: {change}" for name, change in leaks(before, after).items()]
        memory = Memory(self.run.memory)
        if memory.samples and memory.late > memory.early + MEMORY_GROWTH:
            self.run.problems.append(f"memory of the server: {memory.early} bytes early, {memory.late} late")


def control_problems(responses: Sequence[pb.AnalyzeVideoResponse]) -> list[str]:
    """Where the answers to the control differ from what its scene shows."""
    frames = [response.frame for response in responses if response.HasField("frame")]
    problems = [] if len(frames) == CONTROL_FRAMES else [f"control: {len(frames)} of {CONTROL_FRAMES} frames"]
    for frame in frames:
        found = [(one.class_name, one.box) for one in frame.detections]
        for name, (left, top, right, bottom) in scene.ground_truth(frame.frame_index, CONTROL_SIZE):
            apart = [
                max(abs(box.x_min + box.x_max - left - right), abs(box.y_min + box.y_max - top - bottom)) / 2
                for other, box in found
                if other == name
            ]
            if min(apart, default=99) > 3:
                problems.append(f"control: frame {frame.frame_index}: no {name}, found {found}")
    return problems


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
        "statuses": dict(Counter(outcome.status for outcome in run.outcomes).most_common()),
        "frames answered": sum(outcome.frames for outcome in run.outcomes),
        "contained": [f"{one.case}: {one.contained} ({one.what})" for one in contained],
        "control": {"videos": run.control_runs, "frames": run.control_frames},
        "server memory, MiB": {
            "early": memory.early >> 20,
            "late": memory.late >> 20,
            "most": max(memory.samples) >> 20,
        },
        "seconds": round(run.seconds, 1),
        "cases per second": round(len(run.outcomes) / max(run.seconds, 0.001), 1),
        "slowest": f"{slowest.seconds:.1f} s, {slowest.case}" if slowest else None,
        "corpus": {"files": len(fuzzer.videos) + len(fuzzer.pictures), "left out": fuzzer.missing},
        "corpus sha256": fuzzer.corpus_digest,
        "PyAV": av.__version__,
        "problems": run.problems,
    }


def start(root: Path, spool: Path) -> Pair:
    """A pair that serves a small detector."""
    (root / "models").mkdir()
    spool.mkdir()
    models.write(DETECTOR, root / "detector.onnx")
    pair = Pair(root)
    pair.start_registry()
    pair.register(root / "detector.onnx", 1)
    pair.activate(1)
    pair.start_inference("--spool-folder", str(spool))
    pair.wait_until_running(1)
    return pair


@click.command()
@click.option("--cases", default=10_000, show_default=True, help="Inputs to send.")
@click.option("--seconds", default=3600.0, show_default=True, help="Begin no more cases after this time.")
@click.option("--parallel", default=6, show_default=True, help="Cases under way at a time.")
@click.option("--seed", type=int, default=None, help="Repeats all choices; random by default.")
@click.option("--only", type=int, default=None, help="Run this one case again, as a report names it.")
def main(*, cases: int, seconds: float, parallel: int, seed: int | None, only: int | None) -> None:
    """Send mutated videos and pictures to an inference server; exit with 1 if anything went wrong."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    numbers = range(seed, seed + cases) if only is None else range(only, only + 1)
    with tempfile.TemporaryDirectory(prefix="videoai-fuzz-") as folder:
        root = Path(folder)
        pair = start(root, root / "spool")
        try:
            fuzzer = Fuzzer(pair, root / "spool")
            asyncio.run(fuzzer.all(numbers, parallel, seconds))
        finally:
            pair.close()
    told = report(fuzzer, seed)
    FOLDER.mkdir(parents=True, exist_ok=True)
    log = "\n".join(process.log for process in pair.processes)
    (FOLDER / "server.log").write_text(log)
    outcomes = [asdict(outcome) for outcome in fuzzer.run.outcomes]
    (FOLDER / "fuzz.json").write_text(json.dumps({**told, "memory": fuzzer.run.memory, "outcomes": outcomes}, indent=1))
    if only is not None:
        told["outcome"] = outcomes
    click.echo(json.dumps(told, indent=2))
    sys.exit(bool(fuzzer.run.problems))


if __name__ == "__main__":
    main()
