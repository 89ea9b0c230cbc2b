"""Families of Ultralytics' models, and random outputs for them."""

import numpy as np
import pytest

from inference_server.detection import Options, recognise

EXTRAS = {"detect": 0, "segment": 4, "pose": 9, "obb": 1}
KEYPOINTS = (3, 3)
CLASSES, SIZE = 3, 64


@pytest.fixture
def family_of(signature):
    """A function that recognises a model of 64x64 pixels and three classes; `shape` instead of the usual output."""

    def make(task, *, end2end=False, shape=None, size=SIZE, **metadata):
        extras, cells = EXTRAS[task], size // 4
        shape = shape or ((1, 20, 6 + extras) if end2end else (1, 4 + CLASSES + extras, 84))
        outputs = (shape, (1, 4, cells, cells)) if task == "segment" else shape
        told = {"task": task, "end2end": str(end2end), "names": "['a', 'b', 'c']", "kpt_shape": str(list(KEYPOINTS))}
        return recognise(signature((1, 3, size, size), outputs, **{**told, **metadata}))

    return make


@pytest.fixture
def random_outputs():
    """A function that makes up what a model of a task gives for one picture, and what is asked of it."""

    def make(task, seed, *, end2end=False):
        random = np.random.default_rng(seed)
        count = int(random.integers(1, 25 if end2end else 60))
        numbers = np.concatenate([random.uniform(-4, 68, (count, 2)), random.uniform(2, 50, (count, 2))], axis=1)
        scores = random.uniform(0, 1, (count, CLASSES))
        extras = random.normal(0, 1, (count, EXTRAS[task]))
        if task == "pose":
            extras = np.tile(numbers[:, [0, 1, 1]], 3) + 20 * extras
            extras[:, 2::3] = random.uniform(0, 1, (count, 3))
        rows = np.concatenate([numbers, scores, extras], axis=1).T
        if end2end:
            boxes = numbers if task == "obb" else np.concatenate([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]], 1)
            scores = np.sort(scores[:, :1], axis=0)[::-1]
            rows = np.concatenate([boxes, scores, random.integers(0, CLASSES, (count, 1)), extras], axis=1)
            rows = np.concatenate([rows, np.zeros((5, rows.shape[1]))])
        outputs = {"output0": rows.astype(np.float32)}
        if task == "segment":
            patches = random.normal(0, 1, (4, 4, 4)).repeat(4, axis=1).repeat(4, axis=2)
            outputs["output1"] = (patches + random.normal(0, 0.1, patches.shape)).astype(np.float32)
        options = Options(
            confidence_threshold=float(random.choice([0.0, 0.25, 0.8])),
            iou_threshold=float(random.choice([0.2, 0.7])),
            max_detections=int(random.choice([3, 300])),
            class_ids=None if seed % 3 else frozenset({0, 2}),
        )
        return outputs, tuple(map(int, random.integers(20, 300, 2))), options

    return make
