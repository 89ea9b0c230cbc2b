"""What a model's graph takes and gives, as far as its file says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

FLOATS = ("float32", "float16")
# Of what a file says, so much goes into messages: characters of a name, and things of a kind.
NAME_SHOWN, LISTED = 100, 50


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output: `dtype` as NumPy names it, `shape` with None for what is not fixed, or None if not known."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        name = self.name[:NAME_SHOWN]
        if self.shape is None:
            return f"{name} {self.dtype} of unknown shape"
        dimensions = ", ".join(listed("?" if size is None else size for size in self.shape))
        return f"{name} {self.dtype}[{dimensions}]"

    def fits(self, *shape: int | None) -> bool:
        """Whether it is float32 or float16 and may have this shape; None is any size, on either side."""
        if self.dtype not in FLOATS or self.shape is None or len(self.shape) != len(shape):
            return False
        return all(None in (mine, wanted) or mine == wanted for mine, wanted in zip(self.shape, shape, strict=True))


@dataclass(frozen=True, slots=True)
class GraphSignature:
    """The inputs, outputs and metadata of a model file, and the types of the operators in its graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    operators: frozenset[str] = frozenset()

    def __str__(self) -> str:
        inputs, outputs = ("; ".join(listed(tensors)) or "none" for tensors in (self.inputs, self.outputs))
        keys = ", ".join(listed(key[:NAME_SHOWN] for key in sorted(self.metadata))) or "none"
        return f"inputs: {inputs}; outputs: {outputs}; metadata keys: {keys}"


def listed(things: Iterable[object]) -> list[str]:
    """The first of them in words, and how many more there are: a file may hold any number."""
    everything = list(things)
    more = [f"... and {len(everything) - LISTED} more"] if len(everything) > LISTED else []
    return [*map(str, everything[:LISTED]), *more]
