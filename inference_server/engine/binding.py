"""Runs on a device with inputs and outputs in its memory: nothing is allocated for a batch, and only what is asked for
comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_server.engine.cuda import driver
from inference_server.engine.runtime import onnxruntime
from inference_server.engine.session import Session
from inference_server.engine.stacks import Stack

Stacks = Mapping[str, Stack]

# Buffers for so many shapes of inputs are kept; there are as many as there are batch sizes, unless callers of raw
# tensors bring others.
SHAPES = 16


class Fetched(dict[str, NDArray[Any]]):
    """Outputs of one run by name: those that were fetched, and any other that is asked for by name, fetched then."""

    def __init__(self, values: Mapping[str, Any], names: Sequence[str]) -> None:
        super().__init__((name, values[name].numpy()) for name in names)
        self._values = values

    def __missing__(self, name: str) -> NDArray[Any]:
        self[name] = array = self._values[name].numpy()
        return array  # type: ignore[no-any-return]


class BoundSession:
    """A session on the device `kind` and `index` of ONNX Runtime's memory ("cuda", 0); "cpu" runs the same code."""

    def __init__(self, session: Session, kind: str, index: int) -> None:
        self._session = session
        self._where = kind, index
        self._outputs: list[str] = [output.name for output in session.get_outputs()]
        self._buffers: dict[tuple[str, tuple[int, ...], str], Any] = {}
        cuda = driver(index) if kind == "cuda" else None
        self._fill = _fill if cuda is None else cuda.fill
        self._lock = Lock()

    def run(self, names: Sequence[str], inputs: Stacks) -> Fetched:
        """The outputs called `names`, on the host; the others stay on the device. One run at a time."""
        with self._lock:
            binding = self._session.io_binding()
            for name, stack in inputs.items():
                binding.bind_ortvalue_input(name, self._on_device(name, stack))
            for name in self._outputs:
                binding.bind_output(name, *self._where)
            self._session.run_with_iobinding(binding)
            return Fetched(dict(zip(self._outputs, binding.get_outputs(), strict=True)), names)

    def _on_device(self, name: str, stack: Stack) -> Any:
        key = name, stack.shape, stack.dtype.str
        buffer = self._buffers.pop(key, None)
        if buffer is None:
            buffer = onnxruntime.OrtValue.ortvalue_from_shape_and_type(stack.shape, stack.dtype.type, *self._where)
            while len(self._buffers) >= SHAPES:
                del self._buffers[next(iter(self._buffers))]
        self._buffers[key] = buffer  # the last used last
        self._fill(buffer, stack)
        return buffer


def _fill(buffer: Any, stack: Stack) -> None:
    buffer.update_inplace(np.ascontiguousarray(stack.joined()))


def can_be_bound(inputs: Stacks) -> bool:
    """Whether all inputs are numbers that a device's buffer takes."""
    return all(stack.dtype.kind in "buif" and 0 not in stack.shape for stack in inputs.values())
