"""The model files on disk: confined to models/, digested, and read without being run."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

import onnx

from registry_server import onnx_files
from registry_server.entry import TensorSpec, check_path
from registry_server.errors import ArtifactMissing, InvalidField, NotAModel, RegistryError
from registry_server.steps import Artifact, Artifacts, Digest
from server_kit.model_files import BadWeights, combined_digest, files_of, open_beside, weights_of

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

    def digest(self, path: str, weights_files: tuple[str, ...] = ()) -> Digest:
        with self.open(path) as file, _weights_named(path):
            if not weights_files:
                return _digest(file)
            beside = self.beside(path)
            parts = [_digest(file), *(_digest_beside(beside, name) for name in weights_files)]
            return _combined(beside, parts, weights_files)

    def inspect(self, path: str) -> Artifact:
        with self.open(path) as file:
            return read_artifact(path, file, self.beside(path))

    def beside(self, path: str) -> Path:
        """Where the model file really lies, links followed: its folder may hold its weights, too."""
        return Path(os.path.realpath(self._root / path))

    def open(self, path: str) -> BufferedReader:
        """Open a regular file inside models/. Raises InvalidField or ArtifactMissing."""
        check_path(path)
        folder, real = (os.path.realpath(f"{self._root}/{name}") for name in (MODELS_FOLDER, path))
        if not real.startswith(f"{folder}{os.sep}"):
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
        self._digests: dict[tuple[str, tuple[str, ...]], Digest] = {}
        self._inspected: dict[str, Artifact] = {}

    def gather(self, path: str, weights_files: tuple[str, ...] = (), *, whole: bool) -> None:
        """Read a model ahead of need. Errors are kept for the moment that it is asked for."""
        with suppress(RegistryError):
            if whole:
                self.inspect(path)
            else:
                self.digest(path, weights_files)

    def digest(self, path: str, weights_files: tuple[str, ...] = ()) -> Digest:
        key = path, weights_files
        if key not in self._digests:
            self._digests[key] = self._artifacts.digest(path, weights_files)
        return self._digests[key]

    def inspect(self, path: str) -> Artifact:
        if path not in self._inspected:
            self._inspected[path] = self._artifacts.inspect(path)
        return self._inspected[path]


def read_artifact(path: str, file: BufferedReader, beside: Path | None, digest: Digest | None = None) -> Artifact:
    """What the file, open at its beginning, is found to be; errors call it `path`. Raises NotAModel.

    `beside` is where it really lies, among the files of its weights; None where it may have no such files. `digest` is
    that of the file, where it is known.
    """
    digest = digest or _digest(file)
    model = _read_model(path, file)
    graph = model.graph
    # Files of early ONNX versions list the weights among the inputs.
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if not inputs or not graph.output:
        raise NotAModel(path, "its graph has no input or no output")
    digest, names = _with_weights(path, model, digest, beside)
    return Artifact(digest, _specs(inputs), _specs(graph.output), _opset(model), names)


def _with_weights(
    path: str, model: onnx.ModelProto, digest: Digest, beside: Path | None
) -> tuple[Digest, tuple[str, ...]]:
    """The digest of all files, and the names of those beside the model file."""
    with _weights_named(path):
        weights = weights_of(model)
        names = files_of(weights)
        if not names:
            return digest, names
        if beside is None:
            raise BadWeights(f"it keeps weights in other files, such as {names[0]!r}; export it as a single file")
        found = {name: _digest_beside(beside, name) for name in names}
        for one in weights:
            one.end_in(found[one.location].size_bytes)
        return _combined(beside, [digest, *found.values()], names), names


def _digest_beside(model: Path, name: str) -> Digest:
    with open_beside(model, name) as file:
        return _digest(file)


def _combined(model: Path, parts: Sequence[Digest], names: Sequence[str]) -> Digest:
    named = zip((model.name, *names), (part.sha256 for part in parts), strict=True)
    return Digest(combined_digest(list(named)), sum(part.size_bytes for part in parts))


@contextmanager
def _weights_named(path: str) -> Iterator[None]:
    try:
        yield
    except BadWeights as error:
        raise NotAModel(path, str(error)) from None


def _digest(file: BufferedReader) -> Digest:
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Digest(sha256, file.tell())


def _opset(model: onnx.ModelProto) -> int:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    return opset if 0 <= opset < 2**32 else 0


def _read_model(path: str, file: BufferedReader) -> onnx.ModelProto:
    try:
        model = onnx_files.read_model(file)
    except onnx_files.NotReadable as error:
        raise NotAModel(path, "the file cannot be read as one") from error
    if not model.ir_version or not model.opset_import:
        raise NotAModel(path, "it names no ONNX version")
    return model


def _specs(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(value.name, _datatype(value), _shape(value)) for value in values)


def _datatype(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type.elem_type
    names = onnx.TensorProto.DataType
    return _DATATYPES.get(kind) or (names.Name(kind) if kind in names.values() else "UNDEFINED")


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    dimensions = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else -1 for d in dimensions)
