"""The model files on disk: confined to models/, digested, and read without being run."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from registry_server.entry import TensorSpec, check_path
from registry_server.errors import ArtifactMissing, InvalidField, NotAModel, RegistryError
from registry_server.steps import Artifact, Artifacts, Digest

MODELS_FOLDER = "models"

_DATATYPES: Mapping[int, str] = {
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.DOUBLE: "FP64",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.STRING: "BYTES",
}
"""Where the Open Inference Protocol spells an element type unlike ONNX."""


class ArtifactFolder:
    """`Artifacts` over the folder `root`, which holds models/. Every method blocks for as long as the file is long."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def digest(self, path: str) -> Digest:
        with self.open(path) as file:
            return _digest(file)

    def inspect(self, path: str) -> Artifact:
        with self.open(path) as file:
            return read_artifact(path, file)

    def open(self, path: str) -> BufferedReader:
        """Open a regular file inside models/. Raises InvalidField or ArtifactMissing."""
        check_path(path)
        folder = Path(os.path.realpath(self._root / MODELS_FOLDER))
        real = Path(os.path.realpath(self._root / path))
        if not real.is_relative_to(folder):
            raise InvalidField("path", f"a file inside {MODELS_FOLDER}/ once links are followed", path)
        try:
            # Non-blocking, for opening a pipe would wait for its writer; no links, for all of them are resolved.
            descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ArtifactMissing(path, error.strerror or str(error)) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InvalidField("path", "a regular file", path)
        return os.fdopen(descriptor, "rb")


class Evidence:
    """Remembers what each file was found to be: long files are read before the registry is locked, not after."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._digests: dict[str, Digest] = {}
        self._inspected: dict[str, Artifact] = {}

    def gather(self, path: str, *, whole: bool) -> None:
        """Read a file ahead of need. Errors are kept for the moment that the file is asked for."""
        with suppress(RegistryError):
            if whole:
                self.inspect(path)
            else:
                self.digest(path)

    def digest(self, path: str) -> Digest:
        if path not in self._digests:
            self._digests[path] = self._artifacts.digest(path)
        return self._digests[path]

    def inspect(self, path: str) -> Artifact:
        if path not in self._inspected:
            self._inspected[path] = self._artifacts.inspect(path)
        return self._inspected[path]


def read_artifact(path: str, file: BufferedReader) -> Artifact:
    """What the file, open at its beginning, is found to be; errors call it `path`. Raises NotAModel."""
    digest = _digest(file)
    file.seek(0)
    graph = _read_graph(path, file)
    # Files of early ONNX versions list the weights among the inputs.
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if not inputs or not graph.output:
        raise NotAModel(path, "its graph has no input or no output")
    return Artifact(digest, _specs(inputs), _specs(graph.output))


def _digest(file: BufferedReader) -> Digest:
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Digest(sha256, file.tell())


def _read_graph(path: str, file: BufferedReader) -> onnx.GraphProto:
    try:
        # Weights in files of their own stay unread: only names and shapes are wanted.
        model = onnx.load_model(file, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise NotAModel(path, "the file cannot be read as one") from error
    if not model.ir_version or not model.opset_import:
        raise NotAModel(path, "it names no ONNX version")
    return model.graph


def _specs(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(value.name, _datatype(value), _shape(value)) for value in values)


def _datatype(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type.elem_type
    names = onnx.TensorProto.DataType
    return _DATATYPES.get(kind) or (names.Name(kind) if kind in names.values() else "UNDEFINED")


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    dimensions = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else -1 for d in dimensions)
