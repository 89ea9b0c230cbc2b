"""Brings a version into memory: verified, recognised, optimised, rehearsed, and quickly where that was done before."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog

from inference_server.detection import GraphSignature, Settings, read_settings, recognise
from inference_server.engine.device import SESSION_ERRORS, Device, open_session
from inference_server.engine.graph import ModelVersion, read_file, read_model, signature_of
from inference_server.engine.model import LoadedModel, names
from inference_server.engine.prepared import Prepared, PreparedModels, key_of
from inference_server.engine.preprocessing import compose
from inference_server.engine.session import CONFIGURATION, SessionPlan, at_low_priority, explain
from inference_server.errors import ModelRefused

log = structlog.get_logger(__name__)


DIRECT = SessionPlan()


def load(
    version: ModelVersion, device: Device, *, max_batch: int = 8, prepared: PreparedModels | None = None
) -> LoadedModel:
    """Bring a version into memory, ready to answer. Blocks; run it in a thread.

    The file is read whole each time, and the digest is that of the very bytes that are run. `max_batch` bounds batches
    of models that take any number of frames. With `prepared` the cores are left to frames that are answered meanwhile,
    and a file that was loaded before is only verified and put into memory. Raises ModelRefused with a reason that a
    person can act on.
    """
    # What CUDA makes of a graph belongs to its session, and so does what is rehearsed there.
    keep = prepared if device.kind == "cpu" else None
    loading = _Loading(version, read_settings(version.attributes), device, max_batch)
    loaded = (loading.again(keep) or loading.beside(keep)) if keep else loading.directly()
    log.info(
        "model loaded", device=loaded.device, provider=loaded.provider, family=loaded.family.name, **names(version)
    )
    return loaded


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
            return self._open_prepared(sha256, found)
        except ModelRefused as error:
            log.warning("prepared model ignored", reason=str(error), **names(self.version))
            return None

    def beside(self, keep: PreparedModels) -> LoadedModel:
        """Optimise and rehearse at low priority, and keep what came of it."""
        signature, graph, sha256 = self._read()
        ready = at_low_priority(partial(self._prepare, signature, graph, sha256))
        keep.keep(self._key(sha256), ready)
        return self._open_prepared(sha256, ready)

    def directly(self) -> LoadedModel:
        """Optimise and rehearse in the session that answers."""
        signature, graph, sha256 = self._read()
        loaded = self._open(sha256, signature, graph, self.max_batch, DIRECT)
        loaded.rehearse()
        return loaded

    def _read(self) -> tuple[GraphSignature, bytes, str]:
        """What the file says of itself, the graph that is to be run, and the digest."""
        model, sha256 = read_model(self.version)
        signature = signature_of(model)
        compose(model, recognise(signature, self.settings).picture)
        return signature, model.SerializeToString(), sha256

    def _prepare(self, signature: GraphSignature, graph: bytes, sha256: str) -> Prepared:
        """With one thread, the one that calls: others would not have its priority."""
        with tempfile.TemporaryDirectory(prefix="videoai-") as folder:
            saved = Path(folder) / "optimised.ort"
            loaded = self._open(sha256, signature, graph, self.max_batch, SessionPlan(threads=1, save_to=saved))
            loaded.rehearse()
            loaded.close()
            return Prepared(signature, loaded.max_batch, saved.read_bytes())

    def _open_prepared(self, sha256: str, ready: Prepared) -> LoadedModel:
        return self._open(sha256, ready.signature, ready.graph, ready.max_batch, SessionPlan(optimised=True))

    def _open(
        self, sha256: str, signature: GraphSignature, graph: bytes, max_batch: int, plan: SessionPlan
    ) -> LoadedModel:
        family = recognise(signature, self.settings)
        try:
            session = open_session(graph, self.device, plan)
        except SESSION_ERRORS as error:
            raise ModelRefused(f"ONNX Runtime cannot run the model: {explain(error)}") from error
        version = replace(self.version, sha256=sha256)
        defaults = replace(family.defaults, **self.settings.options)
        return LoadedModel(version, family, defaults, session, self.device, family.picture.batch or max_batch)

    def _key(self, sha256: str) -> str:
        options = {**CONFIGURATION, "provider": self.device.provider, "max_batch": self.max_batch}
        return key_of(sha256, self.version.attributes, options)
