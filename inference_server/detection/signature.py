"""What a model's graph takes and gives, as far as its file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inference_server.detection.geometry import Layout, Resize
from inference_server.detection.metadata import MAX_SIDE, read_size
from inference_server.errors import ModelRefused

# More frames than that at once are an error in the file rather than a wish.
MAX_BATCH = 256


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output: `dtype` as NumPy names it, `shape` with None for what is not fixed, or None if not known."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name} {self.dtype} of unknown shape"
        dimensions = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype}[{dimensions}]"


@dataclass(frozen=True, slots=True)
class GraphSignature:
    """The inputs, outputs and metadata of a model file."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        inputs, outputs = ("; ".join(map(str, tensors)) or "none" for tensors in (self.inputs, self.outputs))
        return f"inputs: {inputs}; outputs: {outputs}; metadata keys: {', '.join(sorted(self.metadata)) or 'none'}"


@dataclass(frozen=True, slots=True)
class PictureInput:
    """The input that takes pictures, as the graph declares it: RGB scaled to 0..1, (B, 3, H, W) or (B, H, W, 3).

    `batch` is None where it may be any; `dtype` is float32 or float16.
    """

    name: str
    dtype: str
    channels_last: bool
    batch: int | None
    layout: Layout


def find_picture_input(signature: GraphSignature, resize: Resize = Resize.LETTERBOX) -> PictureInput:
    """The one input of a model that takes nothing but pictures. Raises ModelRefused for any other model."""
    if len(signature.inputs) != 1:
        raise ModelRefused(f"expected one input, found {len(signature.inputs)}")
    spec = signature.inputs[0]
    if spec.dtype not in ("float32", "float16"):
        raise ModelRefused(f"input {spec}: expected float32 or float16")
    if spec.shape is None or len(spec.shape) != 4 or 3 not in (spec.shape[1], spec.shape[3]):
        raise ModelRefused(f"input {spec}: expected (batch, 3, height, width) or (batch, height, width, 3)")
    channels_last = spec.shape[1] != 3
    height, width = spec.shape[1:3] if channels_last else spec.shape[2:4]
    if height is None or width is None:
        declared_height, declared_width = _declared_size(spec, signature.metadata)
        height, width = height or declared_height, width or declared_width
    batch = spec.shape[0]
    if max(height, width) > MAX_SIDE or (batch or 1) > MAX_BATCH:
        raise ModelRefused(f"input {spec}: expected sides of at most {MAX_SIDE} and a batch of at most {MAX_BATCH}")
    return PictureInput(spec.name, spec.dtype, channels_last, batch, Layout(width, height, resize))


def _declared_size(spec: TensorSpec, metadata: Mapping[str, str]) -> tuple[int, int]:
    size = read_size(metadata)
    if size is None:
        raise ModelRefused(
            f"input {spec}: height and width are not fixed, and the file has no metadata key 'imgsz' that says what"
            " they were in training; export with a fixed size, or add the key"
        )
    return size
