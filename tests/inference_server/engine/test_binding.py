"""Bound inputs and outputs, and batches padded to sizes that were rehearsed; shown in the CPU's memory."""

import numpy as np
import pytest

from inference_server.engine.binding import SHAPES, BoundSession, can_be_bound
from inference_server.engine.sizes import BatchSizes
from inference_server.engine.stacks import Stack


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 48, 3), np.uint8)


@pytest.fixture
def padded(loaded, small_detector):
    """A model that runs as it would on a device: bound, in a few sizes of batch."""
    model = loaded(small_detector(batch="batch"), max_batch=8)
    model._bound = BoundSession(model._session, "cpu", 0)
    model._sizes = BatchSizes([1, 2, 4, 8])
    for size in (1, 2, 4, 8):
        model._sizes.learn(size, float(size), 0.0)
    return model


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_bound_runs_answer_as_others_do(loaded, small_detector, padded, count):
    plain = loaded(small_detector(batch="batch"), max_batch=8)
    for seed in range(3):
        frames = list(noise(count, seed))
        for bound, expected in zip(padded.run(frames), plain.run(frames), strict=True):
            np.testing.assert_array_equal(bound["output0"], expected["output0"])


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_batches_are_filled_up_to_a_size_that_was_rehearsed(padded, monkeypatch, count, size):
    assert padded.room(1) == 1
    ran, run = [], padded._bound.run
    monkeypatch.setattr(padded._bound, "run", lambda names, inputs: ran.append(inputs["frames"]) or run(names, inputs))
    outputs = padded.run_rows([{"frames": frame[None]} for frame in noise(count)])
    assert ran[0].shape[0] == outputs["output0"].shape[0] == size
    assert not ran[0].joined()[count:].any()


def test_outputs_of_an_earlier_run_stay_as_they_are(padded):
    first = padded.run_rows([{"frames": noise(2, 1)}])["output0"]
    before = first.copy()
    padded.run_rows([{"frames": noise(2, 2)}])
    np.testing.assert_array_equal(first, before)


def test_buffers_are_used_again_and_bounded(padded):
    for _ in range(3):
        padded.run_rows([{"frames": noise(2)}])
    assert len(padded._bound._buffers) == 1
    for height in range(SHAPES + 5):
        padded._bound._on_device("frames", Stack.of([np.zeros((1, height + 1), np.uint8)]))
    assert len(padded._bound._buffers) == SHAPES


@pytest.mark.parametrize(
    ("array", "bound"),
    [(np.zeros(1, np.float16), True), (np.zeros(0), False), (np.array([b"text"], object), False)],
)
def test_what_is_no_number_or_empty_is_not_bound(array, bound):
    assert can_be_bound({"x": Stack.of([array])}) == bound
