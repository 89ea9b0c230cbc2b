"""The server under test: a pair of real processes that serves a detector and a model of tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from census import Holdings, take
from demo import models
from harness import NAME, Pair, Process, eventually
from mixed import MIXED, model
from shared_memory import Memories
from videoai.inference.v1 import inference_pb2 as pb
from videoai.open_inference.v2 import open_inference_pb2_grpc

DETECTOR = models.Detector(192, 32, (models.RED_CIRCLE, models.GREEN_SQUARE, models.BLUE_DIAMOND), any_batch=False)
_TENSORS = {"attributes": {"videoai": {"family": "tensors"}}}


@dataclass(frozen=True, slots=True)
class Server:
    """The inference server of `pair`. `metrics`: where its counts are; `folder`: where it may read files."""

    pair: Pair
    process: Process
    metrics: str
    folder: Path
    spool: Path
    memories: Memories

    @property
    def alive(self) -> bool:
        return self.process.popen.poll() is None

    def holdings(self) -> Holdings:
        state = self.pair.inference.GetServingState(pb.GetServingStateRequest(), timeout=30)
        return take(self.process.popen.pid, self.spool, state.active_streams)

    def register_memories(self) -> list[str]:
        """Let it know our shared memory, and no other that a case has registered; the methods that were called."""
        return self.memories.register(open_inference_pb2_grpc.GRPCInferenceServiceStub(self.pair.inference_channel))


@contextmanager
def serve(root: Path, memories: Memories, port: int) -> Iterator[Server]:
    """For as long as this lasts; sources on `port` of this machine may be read, and no others."""
    spool, folder, pair = root / "spool", root / "sources", Pair(root)
    for made in (root / "models", spool, folder):
        made.mkdir()
    try:
        _register(pair, root)
        process = pair.start_inference(
            *("--spool-folder", str(spool), "--allow-folder", str(folder), "--allow-host", f"127.0.0.1:{port}"),
            *("--run-threads", "1"),  # no second session of a version: it would come in the middle, and is no leak
            *("--decode-threads", "64"),  # several for each video, whatever the machine has
            *("--connect-timeout-seconds", "5", "--read-timeout-seconds", "3", "--give-up-seconds", "5"),
            *("--shared-memory", memories.prefix, "--metrics", "127.0.0.1:0", "--log-format", "json"),
        )
        for name in (NAME, MIXED):
            pair.wait_until_running(1, name)
        server = Server(pair, process, eventually(lambda: _metrics(process)), folder, spool, memories)
        server.register_memories()
        yield server
    finally:
        pair.close()


def _register(pair: Pair, root: Path) -> None:
    pair.start_registry()
    models.write(DETECTOR, root / "detector.onnx")
    onnx.save(model(), root / "mixed.onnx")
    pair.register(root / "detector.onnx", 1)
    pair.register(root / "mixed.onnx", 1, MIXED, metadata=_TENSORS)
    for name in (NAME, MIXED):
        pair.activate(1, name)


def _metrics(process: Process) -> str:
    entries = (json.loads(line) for line in process.log.splitlines() if '"started"' in line)
    return next((str(entry["metrics"]) for entry in entries if entry["event"] == "started"), "")
