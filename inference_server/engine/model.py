"""A version in memory: verified, recognised, on its device, and rehearsed before the first real frame."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from inference_server.detection import Family, Found, Layout, Options, Placement, anchor_rows_of, place
from inference_server.engine.binding import BoundSession, can_be_bound
from inference_server.engine.candidates import COLUMNS, OUTPUTS, passing
from inference_server.engine.device import Device
from inference_server.engine.graph import ModelVersion
from inference_server.engine.session import ORT_ERRORS, Session, explain
from inference_server.engine.side_by_side import SideBySide
from inference_server.engine.sizes import BatchSizes
from inference_server.engine.stacks import Stack
from inference_server.engine.tensors import Ports, samples
from inference_server.errors import InferenceFailed, ModelRefused, TensorsOnly
from server_kit import memory

log = structlog.get_logger(__name__)

Frame = NDArray[np.uint8]
Outputs = dict[str, NDArray[Any]]
Arrays = Mapping[str, NDArray[Any]]
T = TypeVar("T")


class LoadedModel:
    """A version that answers frames.

    `max_batch` is how many frames `run` takes at once, `batch` how many it always takes where that is fixed (None if
    it is not). `frames_input` is the input that frames go into, uint8 (N, H, W, 3); a model that takes no pictures has
    none, and its requests are a batch each. `ports` are all tensors by which it can be fed and read. `device` is "cpu",
    "cuda:N" or "tensorrt:N", `provider` is what ONNX Runtime reports for the session, and `version.sha256` is always
    that of the file that was loaded. `defaults` are the options of requests that leave them open. `narrow` makes a
    session of one thread, or none, for runs that have a core each.
    """

    def __init__(
        self,
        version: ModelVersion,
        family: Family,
        defaults: Options,
        session: Session,
        device: Device,
        max_batch: int,
        ports: Ports,
        narrow: Callable[[], Session | None] | None = None,
    ) -> None:
        self.version = version
        self.family = family
        self.defaults = defaults
        self.device = str(device)
        self.provider: str = session.get_providers()[0]
        self.max_batch = max_batch
        self._sizes = BatchSizes([] if device.kind == "cpu" else [1, *_larger_sizes(max_batch)])
        self._bound = None if device.kind == "cpu" else BoundSession(session, device.memory, device.index)
        self.ports = ports
        self._session: Session | SideBySide | None = session
        if narrow is not None and device.narrows:
            self._session = SideBySide(session, device.runs_at_once, narrow, version.model_name)
        self.batch = 1 if family.picture is None else family.picture.batch
        self.frames_input = "" if ports.frames is None else ports.frames.name
        given = [output.name for output in session.get_outputs()]
        self._outputs: list[str] = [name for name in given if name not in OUTPUTS]
        self._head = anchor_rows_of(family) if COLUMNS in given else None

    @property
    def sha256(self) -> str:
        """Digest of the file that was loaded, 64 lower-case hexadecimal digits."""
        return self.version.sha256

    @property
    def read_outputs(self) -> Collection[str]:
        """The outputs that `read` needs, unless it turns out to need more."""
        if self._head is None:
            return self._outputs
        return [*OUTPUTS, *(name for name in self._outputs if name != self._head.output_name)]

    @property
    def layout(self) -> Layout:
        """The picture that frames must be. Raises TensorsOnly for a model that takes none."""
        if self.family.picture is None:
            raise TensorsOnly(f"{self.version.model_name} version {self.version.version}")
        return self.family.picture.layout

    def room(self, waiting: int) -> int:
        """How many rows the next batch should have at most, where so many wait."""
        return self.max_batch if self.batch is not None else self._sizes.room(waiting) or self.max_batch

    def run(self, frames: Sequence[Frame]) -> list[Outputs]:
        """Each frame's outputs by name, without the batch dimension. Blocks; may be called from several threads.

        `frames` are 1..max_batch arrays (H, W, 3) uint8 RGB in `layout`. A single frame is passed on where it lies,
        without a copy; several are stacked once. The outputs keep all memory of the session: copy what is to live on.
        Raises RuntimeError after `close`.
        """
        if not 1 <= len(frames) <= self.max_batch:
            raise ValueError(f"frames: expected 1..{self.max_batch}, got {len(frames)}")
        arrays = self.run_rows([{self.frames_input: frame[None]} for frame in frames])
        return [{name: array[index] for name, array in arrays.items()} for index in range(len(frames))]

    def run_rows(self, parts: Sequence[Arrays], names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
        """The outputs called `names` (all if None) for the rows of all `parts`, one after the other. Blocks.

        Each part has the same inputs, and as many rows of one as of the other; a single one is passed on where it lies.
        A batch that is fixed is filled up, and what is more than the rows asked for is to be ignored. The arrays keep
        all memory of the session. Inputs must be as `ports.check` wants them; bfloat16 is float32 here, text `str`.
        Raises RuntimeError after `close`, InferenceFailed where the model does not run with them.
        """
        return self._run(self._stacks(parts), self._outputs if names is None else [*names])

    def read(self, ran: Arrays, row: int, placement: Placement, options: Options) -> Found:
        """What the outputs of `run_rows` tell of the frame that is their row `row`."""
        outputs = {name: array[row] for name, array in ran.items()}
        if self._head is not None and COLUMNS in outputs:
            name = self._head.output_name
            columns, anchors, scores = (outputs.pop(output) for output in OUTPUTS)
            few = passing(columns, anchors, scores, options.confidence_threshold)
            outputs[name] = ran[name][row] if few is None else few
        return self.family.decode(outputs, placement, options)

    def close(self) -> None:
        """Free the session once no run uses it any more, and give its memory back to the system."""
        self._session = self._bound = None
        memory.release_free()

    def rehearse(self) -> None:
        """Run batches of every size that the device prepares for, and look at what comes out. Raises ModelRefused.

        On CUDA these are all that will be run. On the CPU nothing is prepared for a size, so one frame and two show
        what there is to see. A model that declares any batch size and yet fails for several frames runs them one by
        one. One that takes no pictures is run with ones and zeros, and must take them unless its file leaves dimensions
        open.
        """
        try:
            if self.family.picture is None:
                self._rehearse_tensors()
            elif self.family.picture.batch is not None:
                self._rehearse(self.max_batch)
            else:
                self._rehearse_sizes()
        except MemoryError as error:
            raise ModelRefused(f"there is no memory to run the model with inputs of its sizes: {error}") from error

    def _rehearse_sizes(self) -> None:
        self._rehearse(1)
        proven = 1
        for size in self._sizes.larger or _larger_sizes(min(2, self.max_batch)):
            try:
                self._rehearse(size)
            except ModelRefused as error:
                log.warning("batches limited", max_batch=proven, reason=str(error), **names_of(self.version))
                break
            proven = size
        else:
            return
        self.max_batch = proven
        self._sizes.limit(proven)

    def _rehearse(self, size: int) -> None:
        layout = self.layout
        noise = np.random.default_rng(0).integers(0, 256, (size, layout.height, layout.width, 3), np.uint8)
        names = [*self._outputs, *OUTPUTS] if self._head is not None else self._outputs
        try:
            arrays, seconds = _timed(partial(self._run, {self.frames_input: Stack.of([noise])}, names))
            if self._bound is not None:
                filled = Stack.of([noise[:1]], size - 1)
                again = min(_timed(partial(self._run, {self.frames_input: filled}, []))[1] for _ in range(2))
                self._sizes.learn(size, again, seconds - again)
        except InferenceFailed as error:
            raise ModelRefused(f"the model does not run with {size} frames: {error}") from error
        for name in self._outputs:
            _check_output(name, arrays[name], size)
        for index in range(size):
            self._rehearse_reading(arrays, index)

    def _rehearse_reading(self, ran: Arrays, index: int) -> None:
        outputs = {name: ran[name][index] for name in self._outputs}
        self.family.check(outputs)
        where = place(self.layout, self.layout.width, self.layout.height)
        found = self.family.decode(outputs, where, self.defaults)
        if self._head is not None and not _same(found, self.read(ran, index, where, self.defaults)):
            log.warning("candidates do not tell what all anchors do, reading all", **names_of(self.version))
            self._head = None

    def _rehearse_tensors(self) -> None:
        try:
            try:
                self._run_alone(1)
            except InferenceFailed:
                self._run_alone(0)
        except InferenceFailed as error:
            if all(spec.shape is not None and None not in spec.shape for spec in self.ports.inputs):
                raise ModelRefused(f"the model does not run: {error}") from error
            log.warning("not rehearsed", reason=str(error), **names_of(self.version))

    def _run_alone(self, value: int) -> None:
        try:
            inputs = samples(self.ports, value)
        except ValueError as error:
            raise ModelRefused(f"nothing can have the sizes of the model's inputs: {error}") from error
        self._run({name: Stack.of([array]) for name, array in inputs.items()}, self._outputs)

    def _run(self, inputs: Mapping[str, Stack], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        session = self._session
        if session is None:
            raise RuntimeError("the model is closed")
        feeds = self.ports.feed(inputs)
        bound = self._bound
        try:
            if bound is not None and can_be_bound(feeds):
                return bound.run(names, feeds)
            joined = {name: stack.joined() for name, stack in feeds.items()}
            return dict(zip(names, session.run(names, joined), strict=True))
        except ORT_ERRORS as error:
            raise InferenceFailed(explain(error)) from error

    def _stacks(self, parts: Sequence[Arrays]) -> dict[str, Stack]:
        """All rows of each input; those that only fill a batch up are zeros."""
        given = sum(len(next(iter(part.values()))) for part in parts)
        missing = self._rows(given, frames=self.frames_input in parts[0]) - given
        return {name: Stack.of([part[name] for part in parts], missing) for name in parts[0]}

    def _rows(self, given: int, *, frames: bool) -> int:
        """How many rows to run for `given` ones: a fixed batch's, or on a device one of the sizes it prepared for."""
        if self.batch is not None:
            return self.batch if frames else given
        return self._sizes.rows(given)


def _larger_sizes(max_batch: int) -> list[int]:
    """The batch sizes to rehearse after 1: powers of two below `max_batch`, and `max_batch` itself."""
    powers = [1 << exponent for exponent in range(1, max_batch.bit_length()) if 1 << exponent < max_batch]
    return [*powers, max_batch] if max_batch > 1 else []


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """What `work` gives, and how many seconds it took."""
    start = perf_counter()
    return work(), perf_counter() - start


def _same(one: Found, other: Found) -> bool:
    return np.array_equal(one.scores, other.scores) and np.array_equal(one.class_ids, other.class_ids)


def _check_output(name: str, array: NDArray[Any], size: int) -> None:
    if array.shape[:1] != (size,):
        raise ModelRefused(f"output {name}: expected one entry for each of {size} frames, got shape {array.shape}")
    if array.dtype.hasobject:
        raise ModelRefused(f"output {name}: expected numbers, got strings")
    if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
        raise ModelRefused(f"output {name}: holds values that are no numbers (NaN) for an ordinary picture")


def names_of(version: ModelVersion) -> dict[str, Any]:
    return {"model_name": version.model_name, "version": version.version}
