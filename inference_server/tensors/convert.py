"""From a request to the arrays that a version is fed, and from what it gives to the answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from videoai.open_inference.v2 import open_inference_pb2 as pb

from inference_server.detection import TensorSpec
from inference_server.engine import LoadedModel
from inference_server.errors import InvalidField, NotSupported
from inference_server.tensors.datatypes import BY_DTYPE, DATATYPES, Buffer
from inference_server.tensors.messages import InferRequest, InferResponse
from inference_server.tensors.shared_memory import Region, Regions

REGION, SIZE, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"

InputTensor = pb.ModelInferRequest.InferInputTensor


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of a region of shared memory."""

    region: Region
    offset: int
    byte_size: int

    def read(self) -> Buffer:
        return self.region.read(self.offset, self.byte_size)


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of one version: inputs of `rows` rows, and outputs; some of these go to places of their own."""

    inputs: Mapping[str, NDArray[Any]]
    rows: int
    outputs: Sequence[str]
    places: Mapping[str, Place] = field(default_factory=dict)


def read_call(request: InferRequest, model: LoadedModel, regions: Regions) -> Call:
    """What `request` asks of `model`. Raises InvalidField, RegionUnknown, NotSupported."""
    message = request.message
    elsewhere = [_place(f"inputs[{index}]", tensor, regions) for index, tensor in enumerate(message.inputs)]
    raw = _raw_inputs(request, elsewhere)
    specs = {spec.name: spec for spec in (*model.ports.inputs, *filter(None, [model.ports.frames]))}
    inputs: dict[str, NDArray[Any]] = {}
    for index, tensor in enumerate(message.inputs):
        if tensor.name not in specs or tensor.name in inputs:
            once = ", each once" if tensor.name in inputs else ""
            raise InvalidField(f"inputs[{index}].name", f"one of {', '.join(specs)}{once}, got {tensor.name[:200]!r}")
        inputs[tensor.name] = _array(f"inputs[{index}]", tensor, specs[tensor.name], raw[index])
    model.ports.check(inputs)
    outputs, places = _outputs(message, model, regions)
    return Call(inputs, _rows(inputs, model), outputs, places)


def write_response(
    request: pb.ModelInferRequest, model: LoadedModel, call: Call, arrays: Mapping[str, NDArray[Any]]
) -> InferResponse:
    """The answer with `arrays`, the outputs asked for. Raises InvalidField where one does not fit its place."""
    message = pb.ModelInferResponse(
        model_name=model.version.model_name, model_version=str(model.version.version), id=request.id
    )
    dtypes = {spec.name: spec.dtype for spec in model.ports.outputs}
    raw: list[Buffer] = []
    for name in call.outputs:
        array = arrays[name]
        datatype = BY_DTYPE[dtypes[name]]
        output = message.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
        content = datatype.to_raw(array)
        if (place := call.places.get(name)) is not None:
            place.region.write(content, place.offset, place.byte_size)
            output.parameters[REGION].string_param = place.region.name
            output.parameters[SIZE].int64_param = len(content)
            if place.offset:
                output.parameters[OFFSET].int64_param = place.offset
            content = b""  # clients count on an entry for each output
        raw.append(content)
    return InferResponse(message, raw)


def _raw_inputs(request: InferRequest, elsewhere: Sequence[Place | None]) -> list[Buffer | None]:
    """The raw elements of each input, wherever they lie; None for those that are typed."""
    typed = [index for index, tensor in enumerate(request.message.inputs) if tensor.HasField("contents")]
    for index in typed:
        if request.raw or elsewhere[index] is not None:
            other = "raw_input_contents" if request.raw else REGION
            raise InvalidField(f"inputs[{index}].contents", f"none where {other} is given")
    if request.raw and len(request.raw) != elsewhere.count(None):
        raise InvalidField(
            "raw_input_contents", f"{elsewhere.count(None)} entries, one for each input, got {len(request.raw)}"
        )
    rest = iter(request.raw)
    return [place.read() if place is not None else next(rest, None) for place in elsewhere]


def _array(where: str, tensor: InputTensor, spec: TensorSpec, raw: Buffer | None) -> NDArray[Any]:
    wanted = BY_DTYPE[spec.dtype]
    if tensor.datatype != wanted.name:
        known = "" if tensor.datatype in DATATYPES else ", which is no datatype"
        raise InvalidField(f"{where}.datatype", f"{wanted.name} for {spec.name}, got {tensor.datatype[:50]!r}{known}")
    shape = _checked_shape(where, tensor, spec)
    count = math.prod(shape)
    try:
        flat = (
            _typed(where, tensor, wanted.contents, wanted.name, count) if raw is None else wanted.from_raw(raw, count)
        )
    except ValueError as error:
        raise InvalidField(f"{where} ({spec.name})", str(error)) from None
    try:
        return flat.reshape(shape)
    except ValueError:  # of no elements, by dimensions that NumPy does not count with
        raise InvalidField(f"{where}.shape", f"smaller or fewer dimensions, got {list(shape)[:50]}") from None


def _checked_shape(where: str, tensor: InputTensor, spec: TensorSpec) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    if min(shape, default=0) < 0:
        raise InvalidField(f"{where}.shape", f"dimensions of 0 or more, got {list(shape)[:50]}")
    if not _fits(shape, spec.shape):
        raise InvalidField(f"{where}.shape", f"{_shape(spec)} for {spec.name}, got {list(shape)[:50]}")
    return shape


def _typed(where: str, tensor: InputTensor, contents: str | None, name: str, count: int) -> NDArray[Any]:
    if contents is None:
        raise InvalidField(f"{where}.contents", f"none, for {name} can only be sent raw")
    wrong = [field.name for field, _ in tensor.contents.ListFields() if field.name != contents]
    if wrong:
        raise InvalidField(f"{where}.contents", f"{contents} for {name}, got {', '.join(wrong)}")
    return DATATYPES[name].from_contents(getattr(tensor.contents, contents), count)


def _fits(shape: Sequence[int], wanted: tuple[int | None, ...] | None) -> bool:
    if wanted is None:
        return True
    return len(shape) == len(wanted) and all(size in (None, given) for size, given in zip(wanted, shape, strict=True))


def _shape(spec: TensorSpec) -> list[int]:
    return [-1 if size is None else size for size in spec.shape or ()]


def _rows(inputs: Mapping[str, NDArray[Any]], model: LoadedModel) -> int:
    """How many rows the inputs have, as the batch goes; 1 for a model that is run as it is."""
    if model.family.picture is None or model.family.picture.batch is not None:
        return 1
    rows = {array.shape[0] for array in inputs.values()}
    if len(rows) > 1 or not all(1 <= count <= model.max_batch for count in rows):
        found = " and ".join(map(str, sorted(rows)))
        raise InvalidField("inputs", f"a first dimension of 1..{model.max_batch}, the same for all, got {found}")
    return next(iter(rows), 1)


def _outputs(message: pb.ModelInferRequest, model: LoadedModel, regions: Regions) -> tuple[list[str], dict[str, Place]]:
    """The outputs to give, and where to put those that do not go into the answer."""
    known = [spec.name for spec in model.ports.outputs]
    if not message.outputs:
        return known, {}
    places: dict[str, Place] = {}
    names: list[str] = []
    for index, output in enumerate(message.outputs):
        where = f"outputs[{index}]"
        if output.name not in known or output.name in names:
            once = ", each once" if output.name in names else ""
            raise InvalidField(f"{where}.name", f"one of {', '.join(known)}{once}, got {output.name[:200]!r}")
        if output.parameters["classification"].int64_param if "classification" in output.parameters else 0:
            raise NotSupported(f"{where}: classification is not supported: ask for the tensor itself")
        names.append(output.name)
        if (place := _place(where, output, regions)) is not None:
            places[output.name] = place
    return names, places


def _place(where: str, tensor: Any, regions: Regions) -> Place | None:
    """The shared memory that a tensor's parameters name."""
    parameters = tensor.parameters
    if REGION not in parameters:
        return None
    region = regions.find(parameters[REGION].string_param)
    if SIZE not in parameters:
        raise InvalidField(f"{where}.parameters", f"{SIZE} beside {REGION}")
    return Place(region, parameters[OFFSET].int64_param if OFFSET in parameters else 0, parameters[SIZE].int64_param)
