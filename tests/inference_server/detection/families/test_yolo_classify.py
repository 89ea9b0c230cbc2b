import numpy as np
import pytest

from inference_server.detection import Options, place, recognise
from inference_server.errors import ModelRefused


@pytest.fixture
def family(signature):
    names = str([f"thing {index}" for index in range(8)])
    return recognise(signature((1, 3, 32, 32), (1, 8), task="classify", names=names))


@pytest.fixture
def ask(family):
    """A function that asks for the classes of a picture with these probabilities."""

    def make(scores, dtype=np.float32, **options):
        wanted = Options(**{"confidence_threshold": 0, "max_detections": 5, **options})
        found = family.decode({"output0": np.array(scores, dtype)}, place(family.picture.layout, 50, 40), wanted)
        assert (found.scores.dtype, found.class_ids.dtype) == (np.float32, np.int64)
        return list(zip(found.class_ids.tolist(), found.scores.tolist(), strict=True))

    return make


SCORES = [0.125, 0, 0.25, 0.125, 0.375, 0.0625, 0.0625, 0]


def test_the_likeliest_classes_come_first_and_equal_ones_by_their_ids(family, ask):
    assert family.defaults == Options(confidence_threshold=0, max_detections=5)
    assert ask(SCORES) == [(4, 0.375), (2, 0.25), (0, 0.125), (3, 0.125), (5, 0.0625)]
    assert ask(SCORES, np.float16) == ask(SCORES)


@pytest.mark.parametrize("seed", range(200))
def test_classes_are_those_of_a_plain_loop(ask, seed):
    random = np.random.default_rng(seed)
    scores = random.dirichlet(np.ones(8)).astype(np.float32)
    threshold, limit = float(random.choice([0, 0.1, 0.3])), int(random.integers(1, 9))
    class_ids = frozenset({1, 2, 6}) if seed % 2 else None
    kept = [index for index in range(8) if scores[index] > threshold and (class_ids is None or index in class_ids)]
    expected = [(index, scores[index]) for index in sorted(kept, key=lambda index: -scores[index])[:limit]]
    assert ask(scores, confidence_threshold=threshold, max_detections=limit, class_ids=class_ids) == expected


def test_what_is_no_number_is_no_class(ask):
    assert ask([np.nan, np.inf, -np.inf, 0.5, -1, 0, 0, 0]) == [(3, 0.5)]


def test_outputs_that_are_no_probabilities_are_refused(family):
    family.check({"output0": np.array(SCORES, np.float16)})
    beyond = [[2, -1, 0, 0, 0, 0, 0, 0], [np.inf, -np.inf, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]]
    for scores in beyond:
        with pytest.raises(ModelRefused, match=r"expected probabilities, .*leave the softmax out of the graph"):
            family.check({"output0": np.array(scores, np.float32)})
    with pytest.raises(ModelRefused, match=r"expected \(8,\) for each frame, got \(9,\)"):
        family.check({"output0": np.full(9, 1 / 9, np.float32)})
