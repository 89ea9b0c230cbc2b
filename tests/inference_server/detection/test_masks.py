import numpy as np
import plain
import pytest

from inference_server.detection import Layout, Resize, place
from inference_server.detection.masks import run_lengths


def runs(cells, box, source, layout):
    """The runs of one object that has a prototype to itself."""
    (found,) = run_lengths(
        np.ones((1, 1), np.float32),
        np.asarray(cells, np.float32)[None],
        np.array([box], np.float32),
        place(layout, *source),
    )
    return found.tolist()


ALL, NONE = np.ones((16, 16)), -np.ones((16, 16))


@pytest.mark.parametrize(
    ("cells", "box", "expected"),
    [
        (ALL, [0, 0, 64, 64], [0, 64 * 64]),
        (NONE, [0, 0, 64, 64], [64 * 64]),
        (ALL, [0, 0, 64, 1], [0, *[1, 63] * 64]),
        (ALL, [1, 2, 3, 5], [66, 3, 61, 3, 64 * 61 + 59]),
        (ALL, [62, 0, 64, 64], [64 * 62, 128]),
        (ALL, [0, 63, 1, 64], [63, 1, 64 * 63]),
        (ALL, [5.5, 5.5, 5.9, 5.9], [64 * 64]),
        (ALL, [7, 7, 7, 60], [64 * 64]),
    ],
)
def test_runs_are_those_of_coco(cells, box, expected):
    assert runs(cells, box, (64, 64), Layout(64, 64)) == expected


@pytest.mark.parametrize("resize", Resize)
@pytest.mark.parametrize("seed", range(12))
def test_masks_are_those_of_whole_pictures(seed, resize):
    """However the picture was brought to the input: every pixel computed, enlarged, cut and scaled at once."""
    random = np.random.default_rng(seed)
    layout = Layout(*[(64, 64), (96, 64), (64, 160)][seed % 3], resize)
    source = tuple(map(int, random.integers(8, 1200 if seed == 5 else 300, 2)))
    placement = place(layout, *source)
    cells = random.normal(0, 1, (3, layout.height // 16, layout.width // 16)).repeat(4, axis=1).repeat(4, axis=2)
    prototypes = cells.astype(np.float32)
    coefficients = random.normal(0, 1, (6, 3)).astype(np.float32)
    corners = np.sort(random.uniform(0, 1, (6, 2, 2)), axis=1).reshape(6, 4)
    corners[0] = 0, 0, 1, 1
    inside = np.array([max(0, placement.left), max(0, placement.top)] * 2)
    span = np.array([min(placement.width, layout.width), min(placement.height, layout.height)] * 2)
    boxes = placement.to_source((inside + corners * span).astype(np.float32))
    way = plain.Way(source, (layout.width, layout.height))
    way.left, way.top = placement.left, placement.top
    way.width, way.height = placement.width, placement.height
    for index, counts in enumerate(run_lengths(coefficients, prototypes, boxes, placement)):
        one = {"extras": coefficients[index], "box": boxes[index]}
        expected = plain.mask_of(one, prototypes, way)
        assert (plain.pixels_of(counts, expected.shape) ^ expected).sum() <= 2
        assert counts.dtype == np.int64
