"""What can be wrong with a request for tensors while it still is one. Each takes a request and changes it."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

from shared_memory import READ, SIZE, WRITTEN
from videoai.open_inference.v2 import open_inference_pb2 as pb

_SIZES = (-1, 0, 1, 3, 2**15, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
_DATATYPES = ("", "FP32", "FP16", "BF16", "INT64", "INT8", "UINT8", "BYTES", "BOOL", "FLOAT", "x" * 3000)
_NAMES = ("", "numbers", "texts", "frames", "images", "input0", "\0", "ü" * 2000)
_VERSIONS = ("", "0", "2", "-1", "1.0", "9" * 11, "9" * 5000, "\u0663", " 1", "latest")
_PLACES = (-1, 0, 1, 3, SIZE - 1, SIZE, SIZE + 1, 2**31, 2**63 - 1, -(2**63))
_PARAMETERS = (
    *("priority", "timeout", "sequence_id", "sequence_start", "sequence_end", "classification", "binary_data_output"),
    *("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "triton_enable_empty_final_response"),
)
_FIELDS = ("bool_contents", "int_contents", "int64_contents", "uint_contents", "fp32_contents", "bytes_contents")


def shape(request: pb.ModelInferRequest, rng: random.Random) -> None:
    """A dimension is negative, huge, too many or missing."""
    sizes = _input(request, rng).shape
    match rng.randrange(4):
        case 0 if sizes:
            sizes[rng.randrange(len(sizes))] = rng.choice(_SIZES)
        case 1:
            sizes.extend(rng.choice(_SIZES) for _ in range(rng.choice((1, 2, 70, 2000))))
        case 2 if sizes:
            del sizes[rng.randrange(len(sizes))]
        case _:
            sizes[:] = [rng.choice(_SIZES) for _ in range(rng.randrange(4))]


def datatype(request: pb.ModelInferRequest, rng: random.Random) -> None:
    _input(request, rng).datatype = rng.choice(_DATATYPES)


def name(request: pb.ModelInferRequest, rng: random.Random) -> None:
    _input(request, rng).name = rng.choice(_NAMES)


def model(request: pb.ModelInferRequest, rng: random.Random) -> None:
    if rng.random() < 0.5:
        request.model_version = rng.choice(_VERSIONS)
    else:
        request.model_name = rng.choice((*_NAMES, "shapes", "mixed"))


def inputs(request: pb.ModelInferRequest, rng: random.Random) -> None:
    """One input too many, or too few."""
    if request.inputs and rng.random() < 0.5:
        del request.inputs[rng.randrange(len(request.inputs))]
    else:
        request.inputs.add().CopyFrom(_input(request, rng))


def raw(request: pb.ModelInferRequest, rng: random.Random) -> None:
    """Raw contents of another length, one too many, or one too few."""
    contents = request.raw_input_contents
    at = rng.randrange(len(contents)) if contents else 0
    match rng.randrange(4):
        case 0:
            contents.append(rng.randbytes(rng.choice((0, 1, 100))))
        case 1 if contents:
            del contents[at]
        case 2 if contents:
            contents[at] = contents[at][: rng.randrange(len(contents[at]) + 1)]
        case _ if contents:
            contents[at] += rng.randbytes(rng.choice((1, 4, 1000)))


def prefix(request: pb.ModelInferRequest, rng: random.Random) -> None:
    """The length in front of a text lies, or the text is none."""
    found = [index for index, tensor in enumerate(request.inputs) if tensor.datatype == "BYTES"]
    if not found or found[0] >= len(request.raw_input_contents):
        return
    at = found[0]
    lie = struct.pack("<I", rng.choice((0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1)))
    text = rng.choice((b"", b"\xff\xfe", b"\xed\xa0\x80", b"\0" * 9))
    request.raw_input_contents[at] = lie + text + request.raw_input_contents[at][4:]


def contents(request: pb.ModelInferRequest, rng: random.Random) -> None:
    """Typed contents beside raw ones, of another type, or too many."""
    typed = _input(request, rng).contents
    field = rng.choice(_FIELDS)
    value: Any = b"\xff" if field == "bytes_contents" else 1
    getattr(typed, field).extend([value] * rng.choice((0, 1, 3, 300)))
    typed.SetInParent()


def region(request: pb.ModelInferRequest, rng: random.Random) -> None:
    """An input or output is said to be in shared memory, somewhere."""
    tensor = rng.choice([_input(request, rng), request.outputs.add(name=rng.choice(("numbers_again", "texts_again")))])
    tensor.parameters["shared_memory_region"].string_param = rng.choice((READ, WRITTEN, "", "none", "\0"))
    tensor.parameters["shared_memory_byte_size"].int64_param = rng.choice(_PLACES)
    if rng.random() < 0.7:
        tensor.parameters["shared_memory_offset"].int64_param = rng.choice(_PLACES)


def outputs(request: pb.ModelInferRequest, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 50))):
        request.outputs.add(name=rng.choice((*_NAMES, "numbers_again", "counts_again")))


def parameter(request: pb.ModelInferRequest, rng: random.Random) -> None:
    """A parameter of any type, of the request, of an input or of an output."""
    where = rng.choice((request, request, _input(request, rng), *request.outputs))
    parameters = where.parameters[rng.choice(_PARAMETERS)]
    kind, values = rng.choice((
        ("int64_param", _SIZES),
        ("uint64_param", (0, 1, 2**64 - 1)),
        ("bool_param", (True, False)),
        ("string_param", _VERSIONS),
        ("double_param", (0.0, -1.0, 1e308, float("nan"), float("inf"))),
    ))  # fmt: skip
    setattr(parameters, kind, rng.choice(values))


DISTORTIONS: tuple[Callable[[pb.ModelInferRequest, random.Random], None], ...] = (
    *(shape, shape, datatype, name, model, inputs, raw, prefix, contents, region, outputs, parameter),
)


def distort(request: pb.ModelInferRequest, rng: random.Random) -> str:
    """Do one of them; its name."""
    distortion = rng.choice(DISTORTIONS)
    distortion(request, rng)
    return distortion.__name__


def _input(request: pb.ModelInferRequest, rng: random.Random) -> Any:
    return rng.choice(request.inputs) if request.inputs else request.inputs.add()
