"""Weights that lie beside a model's file are put into the graph: ONNX Runtime is given bytes, and opens no file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx import ModelProto, TensorProto

from server_kit.model_files import BadWeights, Weights, combined_digest, files_of, open_beside, weights_of

# The graph with everything in it goes to ONNX Runtime as one protobuf message, which cannot be larger.
MAX_BYTES = (1 << 31) - 1


def take_in_weights(model: ModelProto, path: Path, sha256: str) -> tuple[str, int]:
    """Put all weights into `model`, read from `path` with this digest; returns the digest and number of all files.

    `path` has no links in it. Each file is read once: what is digested is what is run. Raises BadWeights or OSError.
    """
    weights = weights_of(model)
    digests = [(path.name, sha256)]
    taken = model.ByteSize() if weights else 0
    for location in files_of(weights):
        of_file = [one for one in weights if one.location == location]
        found, taken = _take_in(path, location, of_file, taken)
        digests.append((location, found))
    return combined_digest(digests), len(digests)


def _take_in(path: Path, location: str, weights: Sequence[Weights], taken: int) -> tuple[str, int]:
    with open_beside(path, location) as file:
        size = file.seek(0, 2)
        ends: Mapping[int, int] = {id(one): one.end_in(size) for one in weights}
        taken += sum(ends[id(one)] - one.offset for one in weights)
        if max(size, taken) > MAX_BYTES:
            raise BadWeights(f"expected at most {MAX_BYTES} bytes of weights in all, found {max(size, taken)} or more")
        file.seek(0)
        content = file.read(size + 1)
    if len(content) != size:
        raise BadWeights(f"weights {location!r}: changed while they were read")
    view = memoryview(content)
    for one in weights:
        _set(one.tensor, view[one.offset : ends[id(one)]])
    return hashlib.sha256(content).hexdigest(), taken


def _set(tensor: TensorProto, values: memoryview) -> None:
    tensor.raw_data = bytes(values)
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]
