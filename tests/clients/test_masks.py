"""Masks as arrays: run lengths and outlines."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from videoai import masks
from videoai.inference.v1 import inference_pb2


def runs(*counts: int) -> inference_pb2.Mask:
    return inference_pb2.Mask(run_lengths=inference_pb2.RunLengths(counts=counts))


def outlines(*parts: list[float]) -> inference_pb2.Mask:
    polygons = [inference_pb2.Polygon(points=points) for points in parts]
    return inference_pb2.Mask(polygons=inference_pb2.Polygons(parts=polygons))


def encoded(mask: np.ndarray[Any, Any]) -> list[int]:
    """A plain loop down the columns."""
    counts, inside = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if bool(mask[y, x]) != inside:
                counts.append(0)
                inside = not inside
            counts[-1] += 1
    return counts


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_what_is_encoded_comes_back(mask: np.ndarray[Any, Any]) -> None:
    height, width = mask.shape
    decoded = masks.decode(runs(*encoded(mask)), width, height)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, mask)


def test_runs_go_down_the_columns() -> None:
    assert masks.decode(runs(1, 2, 3), 3, 2).tolist() == [[False, True, False], [True, False, False]]


def test_no_mask_has_no_pixels() -> None:
    for mask in (inference_pb2.Mask(), runs(6), outlines()):
        assert masks.decode(mask, 3, 2).tolist() == [[False] * 3] * 2


@pytest.mark.parametrize("counts", [(), (5,), (1, 2, 4), (2**32 - 1, 2**32 - 1)])
def test_runs_that_do_not_fit(counts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"expected 3 x 2 = 6 pixels in all, got {sum(counts)}"):
        masks.decode(runs(*counts), 3, 2)


def test_an_outline_holds_the_pixels_whose_middles_it_holds() -> None:
    mask = masks.decode(outlines([2, 1, 5, 1, 5, 3, 2, 3]), 8, 5)
    assert np.argwhere(mask).tolist() == [[y, x] for y in (1, 2) for x in (2, 3, 4)]
    two = masks.decode(outlines([-9, -9, 1, -9, 1, 1, -9, 1], [6.4, 3, 99, 3, 99, 99, 6.4, 99]), 8, 5)
    assert np.argwhere(two).tolist() == [[0, 0], [3, 6], [3, 7], [4, 6], [4, 7]]


@given(st.lists(st.tuples(st.integers(-3, 12), st.integers(-3, 12)), min_size=3, max_size=8))
def test_outlines_against_a_plain_loop(points: list[tuple[int, int]]) -> None:
    mask = masks.decode(outlines([float(value) for point in points for value in point]), 9, 7)
    for (y, x), inside in np.ndenumerate(mask):
        edges = 0
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            if (y0 > y + 0.5) != (y1 > y + 0.5):
                # Times 2 (y1 - y0), so that whole numbers are compared.
                left_of = (2 * x + 1 - 2 * x0) * (y1 - y0) - (2 * y + 1 - 2 * y0) * (x1 - x0)
                if left_of == 0:
                    break  # on the edge: either will do
                edges += (left_of > 0) == (y1 > y0)
        else:
            assert inside == edges % 2


@pytest.mark.parametrize("points", [[], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [0, 0, 1, 1, 2, float("nan")]])
def test_what_is_no_outline(points: list[float]) -> None:
    with pytest.raises(ValueError, match="expected x and y of three points or more"):
        masks.decode(outlines(points), 8, 5)


def test_numbers_of_any_size() -> None:
    assert masks.decode(outlines([-3e38, -3e38, 3e38, -3e38, 3e38, 3e38, -3e38, 3e38]), 8, 5).all()


def test_a_missing_extra_is_named() -> None:
    code = "import sys; sys.modules['numpy'] = None; import videoai.masks"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    assert outcome.stderr.endswith("videoai.masks needs NumPy: pip install 'videoai[video]'\n")
