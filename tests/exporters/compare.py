"""The service against the exporters' own packages: same files, same pictures, same answers.

`make test-exporters` makes the files and the expected answers first, in an environment of their own; pytest does not
collect this module by itself.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from cases import CASES, CONFIDENCE, IOU, LIMIT
from harness import Pair, eventually
from numpy.typing import NDArray
from pictures import COUNT, pictures
from videoai.inference.v1 import inference_pb2

FOLDER = Path(os.environ.get("EXPORTERS_FOLDER", "build/exporters"))
PIXELS, SCORE, MASK = 1.0, 1e-3, 0.02  # the last: share of a mask's pixels that may differ
# The exporter tells classes apart by moving their boxes far away, where single precision is some hundredths of a pixel:
# of a thousand boxes, one or two overlap so closely as much as is allowed that it keeps or drops the other one.
SHARE = 0.005
COARSER, COARSE_SHARE = 10, 0.02  # of coarse files: times the tolerances, and share of detections that may differ

Arrays = dict[str, NDArray[Any]]
VERSIONS = itertools.count(1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A running pair in which every test puts its own version into production."""
    root = tmp_path_factory.mktemp("pair")
    (root / "models").mkdir()
    pair = Pair(root)
    try:
        pair.start_registry()
        pair.start_inference()
        yield pair
    finally:
        pair.close()


@pytest.mark.parametrize("name", CASES)
def test_the_service_answers_as_the_exporter(pair: Pair, name: str) -> None:
    serve(pair, name)
    for picture, wanted in zip(pictures(*CASES[name].pictures), expected(name), strict=True):
        check(ask(pair, picture, wanted), wanted, CASES[name].coarse)


def test_a_video_is_answered_as_its_pictures_are(pair: Pair, tmp_path: Path) -> None:
    name = "yolov8n"
    serve(pair, name)
    path = tmp_path / "pictures.mkv"
    encode(path, pictures(*CASES[name].pictures))
    asked = {"confidence_threshold": CONFIDENCE, "iou_threshold": IOU, "max_detections": LIMIT}
    for answer, wanted in zip(pair.analyze(path, **asked), expected(name), strict=True):
        check(answer, wanted, CASES[name].coarse)


def encode(path: Path, frames: list[NDArray[np.uint8]]) -> None:
    """Write a video that loses nothing."""
    height, width, _ = frames[0].shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10, width=width, height=height, pix_fmt="bgr0")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def serve(pair: Pair, name: str) -> None:
    """Put the file into production, as a version of its own."""
    version = next(VERSIONS)
    pair.register(FOLDER / f"{name}.onnx", version)
    pair.activate(version)
    served = eventually(lambda: settled(pair, version), f"{name} is served or refused")
    assert served.running_version == version, served.last_error


def expected(name: str) -> Iterator[Arrays]:
    """What the exporter's package found, for one picture after the other."""
    with np.load(FOLDER / f"{name}.npz") as found:
        for index in range(COUNT):
            yield {key.rpartition("_")[0]: found[key] for key in found.files if key.endswith(f"_{index}")}


def settled(pair: Pair, version: int) -> inference_pb2.ServedModel | None:
    served = pair.serving()
    refused = served.seen_version == version and served.state == inference_pb2.SERVING_STATE_REJECTED
    return served if refused or served.running_version == version else None


def ask(pair: Pair, picture: NDArray[np.uint8], wanted: Arrays) -> inference_pb2.FrameResult:
    if "probabilities" in wanted:
        return pair.answer(picture, max_detections=len(wanted["probabilities"]))
    return pair.answer(picture, confidence_threshold=CONFIDENCE, iou_threshold=IOU, max_detections=LIMIT)


def check(answer: inference_pb2.FrameResult, wanted: Arrays, coarse: bool) -> None:
    if "probabilities" in wanted:
        found = np.zeros_like(wanted["probabilities"])
        for item in answer.classifications:
            found[item.class_id] = item.score
        assert len(answer.classifications) == len(found)
        np.testing.assert_allclose(found, wanted["probabilities"], atol=SCORE)
        return
    found_arrays = arrays(answer, wanted)
    assert len(wanted["scores"]) > 20
    partners = match(found_arrays, wanted, COARSER if coarse else 1)
    # What scores as much as is asked for may be on one side of it here and on the other there.
    sure = CONFIDENCE + SCORE
    missing = [row for row, partner in enumerate(partners) if partner is None and wanted["scores"][row] > sure]
    extra = [row for row, score in enumerate(found_arrays["scores"]) if row not in partners and score > sure]
    allowed = (COARSE_SHARE if coarse else SHARE) * len(partners)
    assert len(missing) <= allowed, f"{len(missing)} of {len(partners)} not found, first: {row_of(wanted, missing[0])}"
    assert len(extra) <= allowed, f"{len(extra)} more than {len(partners)}, first: {row_of(found_arrays, extra[0])}"
    if "masks" in wanted:
        compare_masks(found_arrays["masks"], wanted["masks"], partners)


def match(found: Arrays, wanted: Arrays, coarser: float) -> list[int | None]:
    """For each row of `wanted` the one of `found` that is the same detection."""
    free = np.ones(len(found["scores"]), np.bool_)
    partners: list[int | None] = []
    for row in range(len(wanted["scores"])):
        same = (
            free
            & (found["classes"] == wanted["classes"][row])
            & (np.abs(found["scores"] - wanted["scores"][row]) <= SCORE * coarser)
            & (apart(found, wanted, row) <= PIXELS * coarser)
        )
        partner = int(np.argmax(same)) if same.any() else None
        if partner is not None:
            free[partner] = False
        partners.append(partner)
    return partners


def apart(found: Arrays, wanted: Arrays, row: int) -> NDArray[np.float64]:
    """(N,): how many pixels each detection found is at most off from row `row` of `wanted`."""
    if "corners" in wanted:  # wherever a box's first corner is
        turns = [np.roll(wanted["corners"][row], turn, axis=0) for turn in range(4)]
        distances = [np.abs(found["corners"] - turned).max(axis=(1, 2), initial=0) for turned in turns]
        return np.min(distances, axis=0)
    distance = np.abs(found["boxes"] - wanted["boxes"][row]).max(axis=1, initial=0)
    if "keypoints" in wanted:
        points = np.abs(found["keypoints"] - wanted["keypoints"][row]) * (1, 1, PIXELS / SCORE)
        distance = np.maximum(distance, points.max(axis=(1, 2), initial=0))
    return distance


def row_of(rows: Arrays, row: int) -> str:
    return ", ".join(f"{key} {rows[key][row].round(4).tolist()}" for key in ("classes", "scores", "boxes"))


def compare_masks(found: NDArray[np.bool_], wanted: NDArray[np.bool_], partners: list[int | None]) -> None:
    for row, partner in enumerate(partners):
        if partner is not None:
            different = (found[partner] ^ wanted[row]).sum()
            # A box's edge that rounding puts on the other side of a whole pixel moves a row or a column of the mask.
            edge = max(wanted[row].any(axis=axis).sum() for axis in (0, 1))
            allowed = edge + max(8, MASK * wanted[row].sum())
            assert different <= allowed, f"mask {row}: {different} of {wanted[row].sum()} pixels differ"


def arrays(answer: inference_pb2.FrameResult, wanted: Arrays) -> Arrays:
    """The answer's detections in the same arrays as `wanted`."""
    rows = answer.detections
    boxes = [(item.box.x_min, item.box.y_min, item.box.x_max, item.box.y_max) for item in rows]
    found: Arrays = {
        "boxes": np.array(boxes, np.float64).reshape(-1, 4),
        "scores": np.array([item.score for item in rows]),
        "classes": np.array([item.class_id for item in rows]),
    }
    if "corners" in wanted:
        found["corners"] = np.array([corners(item.oriented_box) for item in rows]).reshape(-1, 4, 2)
    if "keypoints" in wanted:
        points = [[(point.x, point.y, point.score) for point in item.keypoints] for item in rows]
        found["keypoints"] = np.array(points, np.float64).reshape(-1, *wanted["keypoints"].shape[1:])
    if "masks" in wanted:
        masks = [pixels(item.mask.run_lengths.counts, answer.height, answer.width) for item in rows]
        found["masks"] = np.array(masks, np.bool_).reshape(-1, answer.height, answer.width)
    return found


def corners(box: inference_pb2.OrientedBox) -> NDArray[np.float64]:
    """(4, 2), one after the other around the box."""
    along = np.array([np.cos(box.angle), np.sin(box.angle)]) * box.width / 2
    across = np.array([-np.sin(box.angle), np.cos(box.angle)]) * box.height / 2
    centre = np.array([box.center_x, box.center_y])
    return np.array(
        [centre + along + across, centre + along - across, centre - along - across, centre - along + across]
    )


def pixels(counts: Any, height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) of run lengths column by column."""
    inside = np.arange(len(counts)) % 2 == 1
    flat = np.repeat(inside, np.array(counts, np.int64))
    assert len(flat) == height * width, f"runs of {len(flat)} pixels in a picture of {width}x{height}"
    return flat.reshape(width, height).T
