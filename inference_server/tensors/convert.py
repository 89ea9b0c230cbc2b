"""From a request to the arrays that a version is fed, and from what it gives to the answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from videoai.open_inference.v2 import open_inference_pb2 as pb

from inference_server.detection import TensorSpec
from inference_server.engine import LoadedModel, ModelVersion
from inference_server.errors import InvalidField, NotSupported
from inference_server.tensors.datatypes import BY_DTYPE, DATATYPES, Buffer, Datatype
from inference_server.tensors.messages import InferResponse
from inference_server.tensors.shared_memory import Regions

REGION, SIZE, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"

InputTensor = pb.ModelInferRequest.InferInputTensor
Written = tuple[tuple[int, ...], int]
"""Of an output: its shape, and how many bytes went into shared memory."""


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of a region of shared memory. The region is looked up each time: it may be registered anew."""

    region: str
    offset: int
    byte_size: int

    def read(self, regions: Regions) -> Buffer:
        return regions.find(self.region).read(self.offset, self.byte_size)

    def write(self, content: Buffer, regions: Regions) -> None:
        regions.find(self.region).write(content, self.offset, self.byte_size)


@dataclass(frozen=True, slots=True)
class Input:
    """An input as a request describes it. `where` is its field there, `place` where its bytes are if not in there."""

    where: str
    tensor: InputTensor
    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    count: int
    place: Place | None

    def array(self, raw: Buffer | None) -> NDArray[Any]:
        """The elements in `raw`, or in its typed contents where that is None. Raises InvalidField."""
        try:
            flat = self._typed() if raw is None else self.datatype.from_raw(raw, self.count)
        except ValueError as error:
            raise InvalidField(f"{self.where} ({self.name})", str(error)) from None
        try:
            return flat.reshape(self.shape)
        except ValueError:  # of no elements, by dimensions that NumPy does not count with
            expected = f"smaller or fewer dimensions, got {list(self.shape)[:50]}"
            raise InvalidField(f"{self.where}.shape", expected) from None

    def _typed(self) -> NDArray[Any]:
        contents, name, given = self.datatype.contents, self.datatype.name, self.tensor.contents
        if contents is None:
            raise InvalidField(f"{self.where}.contents", f"none, for {name} can only be sent raw")
        wrong = [field.name for field, _ in given.ListFields() if field.name != contents]
        if wrong:
            raise InvalidField(f"{self.where}.contents", f"{contents} for {name}, got {', '.join(wrong)}")
        return self.datatype.from_contents(getattr(given, contents), self.count)


@dataclass(frozen=True, slots=True)
class Output:
    """An output that a request asks for; `place` is where its bytes are to go if not into the answer."""

    name: str
    datatype: Datatype
    place: Place | None = None


@dataclass(slots=True)
class Plan:
    """What a request's head asks of one version, checked. What is left for each request are its tensors.

    All inputs together have `rows` rows, as the batch goes.
    """

    version: ModelVersion
    inputs: Sequence[Input]
    rows: int
    outputs: Sequence[Output]
    names: Sequence[str] = field(init=False)
    _raws: int = field(init=False)
    _typed: Input | None = field(init=False)
    _places: Sequence[Place] = field(init=False)
    _answered: tuple[list[Written], bytes] = field(init=False, default=([], b""))

    def __post_init__(self) -> None:
        self.names = [output.name for output in self.outputs]
        self._raws = sum(one.place is None for one in self.inputs)
        self._places = [output.place for output in self.outputs if output.place is not None]
        self._typed = next((one for one in self.inputs if one.tensor.HasField("contents")), None)

    def read(self, raw: Sequence[Buffer], regions: Regions) -> dict[str, NDArray[Any]]:
        """The inputs by name, `raw` being those that the request brings. Raises InvalidField, RegionUnknown."""
        if raw:
            self._check(raw)
        for place in self._places:
            regions.find(place.region)  # before the model is run, and one output written without the other
        rest = iter(raw)
        return {
            one.name: one.array(next(rest, None) if one.place is None else one.place.read(regions))
            for one in self.inputs
        }

    def answer(self, arrays: Mapping[str, NDArray[Any]], identifier: str, regions: Regions) -> InferResponse:
        """The answer with `arrays`, the outputs asked for. Raises InvalidField where one does not fit its place."""
        raw: list[Buffer] = []
        written: list[Written] = []
        for output in self.outputs:
            array = arrays[output.name]
            content = output.datatype.to_raw(array)
            if output.place is None:
                written.append((array.shape, 0))
                raw.append(content)
            else:
                output.place.write(content, regions)
                written.append((array.shape, len(content)))
                raw.append(b"")  # clients count on an entry for each output
        return InferResponse(self._head(written), identifier, raw)

    def _check(self, raw: Sequence[Buffer]) -> None:
        if self._typed is not None:
            raise InvalidField(f"{self._typed.where}.contents", "none where raw_input_contents is given")
        if len(raw) != self._raws:
            raise InvalidField("raw_input_contents", f"{self._raws} entries, one for each input, got {len(raw)}")

    def _head(self, written: list[Written]) -> bytes:
        """What stands in the answer beside the tensors. It is that of the answer before if the sizes are."""
        before, head = self._answered
        if written == before:
            return head
        message = pb.ModelInferResponse(model_name=self.version.model_name, model_version=str(self.version.version))
        for output, (shape, size) in zip(self.outputs, written, strict=True):
            described = message.outputs.add(name=output.name, datatype=output.datatype.name, shape=shape)
            if (place := output.place) is not None:
                described.parameters[REGION].string_param = place.region
                described.parameters[SIZE].int64_param = size
                if place.offset:
                    described.parameters[OFFSET].int64_param = place.offset
        head = message.SerializeToString()
        self._answered = written, head
        return head


def plan(message: pb.ModelInferRequest, model: LoadedModel, regions: Regions) -> Plan:
    """What `message` asks of `model`. Raises InvalidField, RegionUnknown, NotSupported."""
    specs = {spec.name: spec for spec in (*model.ports.inputs, *filter(None, [model.ports.frames]))}
    inputs: dict[str, Input] = {}
    for index, tensor in enumerate(message.inputs):
        where = f"inputs[{index}]"
        if tensor.name not in specs or tensor.name in inputs:
            once = ", each once" if tensor.name in inputs else ""
            raise InvalidField(f"{where}.name", f"one of {', '.join(specs)}{once}, got {tensor.name[:200]!r}")
        inputs[tensor.name] = _input(where, tensor, specs[tensor.name], regions)
    model.ports.check(inputs)
    return Plan(model.version, [*inputs.values()], _rows(inputs.values(), model), _outputs(message, model, regions))


def _input(where: str, tensor: InputTensor, spec: TensorSpec, regions: Regions) -> Input:
    place = _place(where, tensor, regions)
    if place is not None and tensor.HasField("contents"):
        raise InvalidField(f"{where}.contents", f"none where {REGION} is given")
    wanted = BY_DTYPE[spec.dtype]
    if tensor.datatype != wanted.name:
        known = "" if tensor.datatype in DATATYPES else ", which is no datatype"
        raise InvalidField(f"{where}.datatype", f"{wanted.name} for {spec.name}, got {tensor.datatype[:50]!r}{known}")
    shape = _checked_shape(where, tensor, spec)
    return Input(where, tensor, spec.name, wanted, shape, math.prod(shape), place)


def _checked_shape(where: str, tensor: InputTensor, spec: TensorSpec) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    if min(shape, default=0) < 0:
        raise InvalidField(f"{where}.shape", f"dimensions of 0 or more, got {list(shape)[:50]}")
    if not _fits(shape, spec.shape):
        raise InvalidField(f"{where}.shape", f"{_shape(spec)} for {spec.name}, got {list(shape)[:50]}")
    return shape


def _fits(shape: Sequence[int], wanted: tuple[int | None, ...] | None) -> bool:
    if wanted is None:
        return True
    return len(shape) == len(wanted) and all(size in (None, given) for size, given in zip(wanted, shape, strict=True))


def _shape(spec: TensorSpec) -> list[int]:
    return [-1 if size is None else size for size in spec.shape or ()]


def _rows(inputs: Iterable[Input], model: LoadedModel) -> int:
    """How many rows the inputs have, as the batch goes; 1 for a model that is run as it is."""
    if model.family.picture is None or model.family.picture.batch is not None:
        return 1
    rows = {one.shape[0] for one in inputs}
    if len(rows) > 1 or not all(1 <= count <= model.max_batch for count in rows):
        found = " and ".join(map(str, sorted(rows)))
        raise InvalidField("inputs", f"a first dimension of 1..{model.max_batch}, the same for all, got {found}")
    return next(iter(rows), 1)


def _outputs(message: pb.ModelInferRequest, model: LoadedModel, regions: Regions) -> list[Output]:
    """The outputs to give: those asked for, else all."""
    known = {spec.name: BY_DTYPE[spec.dtype] for spec in model.ports.outputs}
    if not message.outputs:
        return [Output(name, datatype) for name, datatype in known.items()]
    outputs: dict[str, Output] = {}
    for index, output in enumerate(message.outputs):
        where = f"outputs[{index}]"
        if output.name not in known or output.name in outputs:
            once = ", each once" if output.name in outputs else ""
            raise InvalidField(f"{where}.name", f"one of {', '.join(known)}{once}, got {output.name[:200]!r}")
        if output.parameters["classification"].int64_param if "classification" in output.parameters else 0:
            raise NotSupported(f"{where}: classification is not supported: ask for the tensor itself")
        outputs[output.name] = Output(output.name, known[output.name], _place(where, output, regions))
    return [*outputs.values()]


def _place(where: str, tensor: Any, regions: Regions) -> Place | None:
    """The shared memory that a tensor's parameters name."""
    parameters = tensor.parameters
    if REGION not in parameters:
        return None
    region = regions.find(parameters[REGION].string_param).name
    if SIZE not in parameters:
        raise InvalidField(f"{where}.parameters", f"{SIZE} beside {REGION}")
    return Place(region, parameters[OFFSET].int64_param if OFFSET in parameters else 0, parameters[SIZE].int64_param)
