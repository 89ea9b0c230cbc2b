"""The picture that goes into a model: where, how large, and how its bytes become the model's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from inference_server.detection.geometry import Layout


class Colors(Enum):
    """The channels of a model's input, in their order."""

    RGB = "rgb"
    BGR = "bgr"
    GRAY = "gray"

    @property
    def channels(self) -> int:
        return 1 if self is Colors.GRAY else 3


@dataclass(frozen=True, slots=True)
class Pixels:
    """How a byte becomes a number: (byte * `scale` - `mean`) / `std`.

    There is one mean and std for each channel of `colors`, or one for all of them.
    """

    colors: Colors = Colors.RGB
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for field in ("mean", "std"):
            if len(getattr(self, field)) not in (1, self.colors.channels):
                raise ValueError(
                    f"{field}: expected 1 or {self.colors.channels} numbers, got {len(getattr(self, field))}"
                )


PLAIN = Pixels()


@dataclass(frozen=True, slots=True)
class ConstantInput:
    """A further input that is the same for every frame: `values` of `dtype` for each frame of the batch."""

    name: str
    dtype: str
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PictureInput:
    """The input that takes pictures: (B, C, H, W) or, with `channels_last`, (B, H, W, C).

    `batch` is None where it may be any; `dtype` is float32 or float16. `constants` are the graph's other inputs.
    """

    name: str
    dtype: str
    channels_last: bool
    batch: int | None
    layout: Layout
    pixels: Pixels = PLAIN
    constants: tuple[ConstantInput, ...] = ()
