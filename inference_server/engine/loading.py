"""Brings a version into memory: verified, recognised, optimised, rehearsed, and quickly where that was done before."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import structlog
from onnx import ModelProto

from inference_server.detection import Settings, anchor_rows_of, read_settings, recognise
from inference_server.engine.apart import Apart
from inference_server.engine.candidates import add_candidates
from inference_server.engine.device import SESSION_ERRORS, Device, open_session
from inference_server.engine.graph import ModelVersion, opset_of, read_file, read_model, serialise, signature_of
from inference_server.engine.model import LoadedModel, names_of
from inference_server.engine.prepared import Prepared, PreparedModels, key_of
from inference_server.engine.preprocessing import compose
from inference_server.engine.rewrites import rewrite_for_cpu
from inference_server.engine.session import (
    CONFIGURATION,
    Session,
    SessionPlan,
    at_low_priority,
    explain,
    new_file,
    path_of,
)
from inference_server.engine.tensorrt import Engines, engine_options, place, precisions, profile_options
from inference_server.engine.tensors import ports_of, widen_bfloat16
from inference_server.errors import ModelRefused

log = structlog.get_logger(__name__)


DIRECT = SessionPlan()


def load(
    version: ModelVersion,
    device: Device,
    *,
    max_batch: int = 8,
    prepared: PreparedModels | None = None,
    apart: Apart | None = None,
) -> LoadedModel:
    """Bring a version into memory, ready to answer. Blocks; run it in a thread.

    The file is read whole each time, and the digest is that of the very bytes that are run. `max_batch` bounds batches
    of models that take any number of frames. With `prepared` the cores are left to frames that are answered meanwhile,
    and a file that was loaded before is only verified and put into memory. With `apart`, too, a file that was not is
    met by another process first, on the CPU. Raises ModelRefused with a reason that a person can act on, and
    PreparationStopped.
    """
    loading = _Loading(version, read_settings(version.attributes), device, max_batch)
    if device.kind == "tensorrt":
        loaded = loading.with_engines(prepared)
    # What CUDA makes of a graph belongs to its session, and so does what is rehearsed there.
    elif device.kind == "cuda" or prepared is None:
        loaded = loading.directly()
    else:
        loaded = loading.again(prepared) or (apart and loading.apart(prepared, apart)) or loading.beside(prepared)
    log.info(
        "model loaded", device=loaded.device, provider=loaded.provider, family=loaded.family.name, **names_of(version)
    )
    return loaded


def prepare(version: ModelVersion, max_batch: int, keep: PreparedModels) -> str:
    """Prepare a version for the CPU, keep the result, and return the digest of its files. Raises ModelRefused."""
    return _Loading(version, read_settings(version.attributes), Device("cpu"), max_batch).prepare(keep)


@dataclass(frozen=True, slots=True)
class _Loading:
    """One version on its way into memory."""

    version: ModelVersion
    settings: Settings
    device: Device
    max_batch: int

    def again(self, keep: PreparedModels) -> LoadedModel | None:
        """The version as an earlier load of the same bytes prepared it; None where there is none that can be used."""
        _, sha256 = read_file(self.version.path)
        if self.version.sha256 not in ("", sha256):
            return None
        found = keep.find(self._key(sha256))
        if found is None:
            return None
        try:
            return self._open_prepared(sha256, found, keep)
        except ModelRefused as error:
            log.warning("prepared model ignored", reason=str(error), **names_of(self.version))
            return None

    def apart(self, keep: PreparedModels, process: Apart) -> LoadedModel | None:
        """The version as another process prepared it; None where none did, or nothing was kept."""
        version = {**asdict(self.version), "path": str(self.version.path)}
        sha256 = process.prepare(
            {
                "version": version,
                "max_batch": self.max_batch,
                "folder": str(keep.folder),
                "max_bytes": keep.max_bytes,
            }
        )
        if sha256 is None:
            return None
        found = keep.find(self._key(sha256))
        if found is None:
            log.warning("prepared once more, by the server: nothing was kept", **names_of(self.version))
            return None
        return self._open_prepared(sha256, found, keep)

    def prepare(self, keep: PreparedModels) -> str:
        """What `apart` asks another process for."""
        composed, sha256 = self._read()
        keep.keep(self._key(sha256), self._prepare(composed, sha256))
        return sha256

    def beside(self, keep: PreparedModels) -> LoadedModel:
        """Optimise and rehearse at low priority, and keep what came of it."""
        composed, sha256 = self._read()
        ready = at_low_priority(partial(self._prepare, composed, sha256))
        keep.keep(self._key(sha256), ready)
        return self._open_prepared(sha256, ready, keep)

    def directly(self) -> LoadedModel:
        """Optimise and rehearse in the session that answers."""
        composed, sha256 = self._read()
        loaded = self._open(sha256, composed, DIRECT)
        loaded.rehearse()
        return loaded

    def with_engines(self, keep: PreparedModels | None) -> LoadedModel:
        """Build TensorRT's engines at low priority unless they are kept, and load them in the session that answers."""
        model, sha256 = read_model(self.version)
        composed = self._compose(model)
        with tempfile.TemporaryDirectory(prefix="videoai-") as name:
            options = engine_options(Path(name), precisions(model), composed.signature.operators)
            del model
            run = partial(self._run_engines, sha256, composed, options)
            if keep is None:
                return run()
            engines = Engines(Path(name), keep, *self._engine_keys(sha256, options))
            if not engines.restore():
                at_low_priority(run).close()
                engines.keep()
            loaded = run()
            engines.keep()
            return loaded

    def _run_engines(self, sha256: str, composed: Prepared, options: Mapping[str, str]) -> LoadedModel:
        """A rehearsed session, with engines for all sizes of a batch at once where ONNX Runtime takes that.

        It does not where its optimiser or an operator that TensorRT lacks leaves other values to enter a part of the
        graph; there each size that is rehearsed widens the engine.
        """
        profile = profile_options(recognise(composed.signature, self.settings).picture, self.max_batch)
        try:
            loaded = self._open(sha256, composed, SessionPlan(provider_options={**options, **profile}))
        except ModelRefused as error:
            if not profile:
                raise
            log.warning("engines grow with each size of a batch", reason=str(error), **names_of(self.version))
            loaded = self._open(sha256, composed, SessionPlan(provider_options=options))
        loaded.rehearse()
        return loaded

    def _engine_keys(self, sha256: str, options: Mapping[str, str]) -> tuple[str, str]:
        """The keys of this model's engines, and of what the device was measured to take for its layers."""
        where = {**place(self.device.index), "limit": self.device.memory_limit}
        own = {name: value for name, value in options.items() if not name.endswith("_path")}
        engines = key_of(sha256, self.version.attributes, {**own, **where, "max_batch": self.max_batch})
        return engines, key_of("", {}, {**where, "what": "timings"})

    def _read(self) -> tuple[Prepared, str]:
        """The graph that is to be run, not optimised yet, what its file says of it, and the digest."""
        model, sha256 = read_model(self.version)
        return self._compose(model), sha256

    def _compose(self, model: ModelProto) -> Prepared:
        """Changes `model` to what is to be run."""
        signature = signature_of(model)
        widen_bfloat16(model)
        opset, on_cpu = opset_of(model) or 0, self.device.kind == "cpu"
        if on_cpu:
            rewrite_for_cpu(model, opset)
        family = recognise(signature, self.settings)
        picture, head = family.picture, anchor_rows_of(family)
        entries = None if picture is None else compose(model, picture)
        # On the CPU all that the graph gives is in reach already, and choosing there is no quicker than here.
        if head is not None and not on_cpu:
            add_candidates(model, head, opset)
        at_once = 1 if picture is None else picture.batch or self.max_batch
        return Prepared(signature, entries, at_once, tuple(serialise(model)))

    def _prepare(self, composed: Prepared, sha256: str) -> Prepared:
        """With one thread, the one that calls: others would not have its priority."""
        with _place_to_save() as saved:
            loaded = self._open(sha256, composed, SessionPlan(threads=1, save_to=saved))
            loaded.rehearse()
            loaded.close()
            return replace(composed, max_batch=loaded.max_batch, graph=(saved.read_bytes(),))

    def _open_prepared(self, sha256: str, ready: Prepared, keep: PreparedModels) -> LoadedModel:
        return self._open(sha256, ready, SessionPlan(optimised=True), partial(self._narrow, self._key(sha256), keep))

    def _narrow(self, key: str, keep: PreparedModels) -> Session | None:
        """A session of one thread; none where what was prepared is not kept any more. Raises one of SESSION_ERRORS."""
        found = keep.find(key)
        return found and open_session(found.graph, self.device, SessionPlan(optimised=True, threads=1))

    def _open(
        self, sha256: str, graph: Prepared, plan: SessionPlan, narrow: Callable[[], Session | None] | None = None
    ) -> LoadedModel:
        family = recognise(graph.signature, self.settings)
        try:
            session = open_session(graph.graph, self.device, plan)
        except SESSION_ERRORS as error:
            raise ModelRefused(f"ONNX Runtime cannot run the model: {explain(error)}") from error
        version = replace(self.version, sha256=sha256)
        defaults = replace(family.defaults, **self.settings.options)
        ports = ports_of(graph.signature, family.picture, graph.entries)
        return LoadedModel(version, family, defaults, session, self.device, graph.max_batch, ports, narrow)

    def _key(self, sha256: str) -> str:
        options = {**CONFIGURATION, "provider": self.device.provider, "max_batch": self.max_batch}
        return key_of(sha256, self.version.attributes, options)


@contextmanager
def _place_to_save() -> Iterator[Path]:
    """A file in memory, since nothing takes away what a process that is killed leaves in a folder; else in a folder."""
    if file := new_file():
        with file:
            yield path_of(file)
        return
    with tempfile.TemporaryDirectory(prefix="videoai-") as folder:
        yield Path(folder) / "optimised.ort"
