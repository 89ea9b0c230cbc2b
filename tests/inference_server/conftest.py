"""A loaded model that needs no session, for tests of what stands around it."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from inference_server.detection import Detections, Layout, Options, PictureInput, place
from inference_server.engine import ModelVersion

LAYOUT = Layout(4, 4)


class FakeFamily:
    """Finds one box whose score is the first output."""

    name = "fake"
    class_names = ("thing", "other")
    layout = LAYOUT
    picture = PictureInput("images", "float32", False, None, LAYOUT)

    def decode(self, outputs, placement, options):
        return Detections(
            boxes=np.array([[0, 0, 1, 1]], np.float32),
            scores=outputs["output0"].reshape(1).astype(np.float32),
            class_ids=np.zeros(1, np.int64),
        )


@dataclass
class FakeModel:
    """Answers each frame with its first byte; can be held up and made to fail."""

    number: int = 1
    max_batch: int = 1
    device: str = "cpu"
    provider: str = "FakeProvider"
    batch: int | None = None
    frames_input: str = "frames"
    read_outputs: tuple[str, ...] = ("output0",)
    batches: list[int] = field(default_factory=list)
    values: list[list[int]] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    failure: Exception | None = None
    closed: bool = False

    def __post_init__(self):
        self.version = ModelVersion("fake", self.number, Path("model.onnx"), "ab" * 32, {})
        self.sha256 = "ab" * 32
        self.family = FakeFamily()
        self.layout = LAYOUT
        self.may_run = threading.Event()
        self.may_run.set()
        self.entered = threading.Semaphore(0)

    def room(self, waiting):
        return self.max_batch

    def run_rows(self, parts, names=None):
        assert not self.closed
        self.entered.release()
        assert self.may_run.wait(30)
        frames = np.concatenate([part["frames"] for part in parts])
        self.batches.append(len(frames))
        self.values.append(frames[:, 0, 0, 0].tolist())
        self.threads.append(threading.get_ident())
        if self.failure:
            raise self.failure
        return {"output0": frames[:, 0, 0, :1]}

    def read(self, ran, row, placement, options):
        return self.family.decode({name: array[row] for name, array in ran.items()}, placement, options)

    def close(self):
        self.closed = True


@pytest.fixture
def fake_model():
    return FakeModel


@pytest.fixture
def frame():
    """A function that makes a frame of one value, and what goes with it."""

    def make(value=0):
        return np.full((4, 4, 3), value, np.uint8), place(LAYOUT, 8, 8), Options()

    return make
