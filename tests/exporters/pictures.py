"""The pictures that both sides look at: the same for everyone who asks, and new to any model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COUNT = 3


def pictures(height: int, width: int, count: int = COUNT) -> list[NDArray[np.uint8]]:
    """RGB (height, width, 3): blobs of colour of every size, no two alike."""
    return [_picture(np.random.default_rng([height, width, index]), height, width) for index in range(count)]


def _picture(random: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    picture = np.zeros((height, width, 3))
    for cell in (240, 96, 40, 12):
        coarse = random.random((height // cell + 3, width // cell + 3, 3))
        rows, columns = (np.arange(side) / cell + random.random() for side in (height, width))
        picture += cell**0.3 * _between(_between(coarse, rows, 0), columns, 1)
    for channel in range(3):
        low, high = np.percentile(picture[..., channel], (1, 99))
        picture[..., channel] = (picture[..., channel] - low) / (high - low)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def _between(values: NDArray[np.float64], positions: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """`values` along `axis` at fractional `positions`, by a cosine from one to the next."""
    lower = np.floor(positions).astype(int)
    weight = (1 - np.cos(np.pi * (positions - lower))) / 2
    shape = [1] * values.ndim
    shape[axis] = len(positions)
    weight = weight.reshape(shape)
    return values.take(lower, axis) * (1 - weight) + values.take(lower + 1, axis) * weight
