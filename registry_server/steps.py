"""The changes a catalog can undergo, as pure functions: catalog in, catalog out, or an error and nothing changed.

Whether a file holds what it should is asked through `Artifacts`, at the point of the order where it matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from registry_server import history
from registry_server.catalog import Catalog
from registry_server.document import same
from registry_server.entry import MAX_VERSION, Entry, Status, TensorSpec, as_text, read_entry
from registry_server.errors import (
    AlreadyRegistered,
    Archived,
    ArtifactChanged,
    ArtifactUnusable,
    ExpectationNotMet,
    InProduction,
    InvalidField,
    ModelNotFound,
    NothingToRollBack,
    RegistryError,
    RequestIdReused,
)


@dataclass(frozen=True, slots=True)
class Digest:
    """SHA-256 (64 lower-case hexadecimal digits) and size in bytes of a model, all its files together."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a model file is found to be."""

    digest: Digest
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int = 0
    weights_files: tuple[str, ...] = ()


class Artifacts(Protocol):
    """The model files, by the path that entries use."""

    def digest(self, path: str, weights_files: tuple[str, ...] = ()) -> Digest:
        """Of the model file and the files with weights in its folder. Raises InvalidField or ArtifactMissing."""

    def inspect(self, path: str) -> Artifact:
        """Raises InvalidField, ArtifactMissing or NotAModel."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a change happens, and the revision that will hold it."""

    time: datetime
    revision: int


@dataclass(frozen=True, slots=True)
class Registration:
    """What to register; version 0 = next free one, "" = not given."""

    model_name: str
    version: int
    path: str
    metadata: Mapping[str, Any]
    sha256: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A step's outcome. `catalog` is the very one that came in if nothing changed.

    `revision` is 0 unless the change was made earlier: then it is the revision that it was made in.
    """

    catalog: Catalog
    entry: Entry
    demoted: Entry | None = None
    revision: int = 0


def register(catalog: Catalog, wanted: Registration, artifacts: Artifacts, moment: Moment) -> Change:
    """Add a version as staging."""
    earlier = catalog.registered_by(wanted.request_id) if wanted.request_id else None
    if earlier is not None:
        return Change(catalog, _same_registration(earlier, wanted))
    version = wanted.version or next_version(catalog, wanted.model_name)
    if catalog.find(wanted.model_name, version):
        raise AlreadyRegistered(wanted.model_name, version)
    artifact = artifacts.inspect(wanted.path)
    if wanted.sha256 and wanted.sha256 != artifact.digest.sha256:
        raise ArtifactChanged(wanted.path, "sha256", wanted.sha256, artifact.digest.sha256)
    raw: dict[str, Any] = {
        "model_name": wanted.model_name,
        "version": version,
        "path": wanted.path,
        "status": Status.STAGING.value,
        "creation_timestamp": as_text(moment.time),
        "metadata": dict(wanted.metadata),
        **_described(artifact),
    }
    if wanted.request_id:
        raw["request_id"] = wanted.request_id
    entry = read_entry(raw)
    return Change(catalog.with_entry(entry), entry)


def activate(
    catalog: Catalog,
    model_name: str,
    version: int,
    artifacts: Artifacts,
    moment: Moment,
    *,
    expected: int | None = None,
    request_id: str = "",
    requested_by: str = "",
) -> Change:
    """Put a version into production and its predecessor back to staging."""
    earlier = history.find_request(catalog.history, request_id) if request_id else None
    if earlier is not None and (earlier.model_name, earlier.version) != (model_name, version):
        raise RequestIdReused(request_id, f"activate version {earlier.version} of model {earlier.model_name!r}")
    entry = catalog.get(model_name, version)
    if earlier is not None:
        return Change(catalog, entry, catalog.find(model_name, earlier.previous), earlier.revision)
    present = catalog.in_production.get(model_name)
    present_version = present.version if present else 0
    if expected is not None and expected != present_version:
        raise ExpectationNotMet(model_name, expected, present_version)
    if entry is present:
        return Change(catalog, entry)
    if entry.status is Status.ARCHIVED:
        raise Archived(model_name, version)
    promoted = _promoted(entry, artifacts, moment)
    demoted = _changed(present, status=Status.STAGING.value) if present else None
    record = history.activation(
        model_name,
        present_version,
        version,
        moment=moment.time,
        revision=moment.revision,
        request_id=request_id,
        requested_by=requested_by,
    )
    # Demote first: no catalog, not even one on the way, has two versions in production.
    next_one = catalog.with_entry(demoted) if demoted else catalog
    next_one = next_one.with_entry(promoted).with_history(history.extend(catalog.history, [record]))
    return Change(next_one, promoted, demoted)


def rollback(
    catalog: Catalog, model_name: str, artifacts: Artifacts, moment: Moment, *, requested_by: str = ""
) -> Change:
    """Activate the version that was in production before the present one."""
    target = rollback_target(catalog, model_name)
    return activate(catalog, model_name, target, artifacts, moment, requested_by=requested_by)


def rollback_target(catalog: Catalog, model_name: str) -> int:
    """The version that a rollback would activate. Raises ModelNotFound or NothingToRollBack."""
    if not catalog.knows(model_name):
        raise ModelNotFound(model_name)
    present = catalog.in_production.get(model_name)
    version = history.before(catalog.history, model_name, present.version if present else 0)
    if not version:
        raise NothingToRollBack(model_name, "no version is known to have been in production before")
    target = catalog.find(model_name, version)
    if target is None:
        raise NothingToRollBack(model_name, f"version {version}, in production before, has been deleted")
    if target.status is Status.ARCHIVED:
        raise NothingToRollBack(model_name, f"version {version}, in production before, is archived")
    return version


def archive(catalog: Catalog, model_name: str, version: int) -> Change:
    """Keep a version for the record only."""
    entry = catalog.get(model_name, version)
    if entry.status is Status.PRODUCTION:
        raise InProduction(model_name, version, "archived")
    if entry.status is Status.ARCHIVED:
        return Change(catalog, entry)
    changed = _changed(entry, status=Status.ARCHIVED.value)
    return Change(catalog.with_entry(changed), changed)


def update_metadata(catalog: Catalog, model_name: str, version: int, parts: Mapping[str, Any]) -> Change:
    """Replace those parts of the metadata that `parts` names; other keys of it stay."""
    entry = catalog.get(model_name, version)
    # A part that is absent and is to be empty stays absent.
    news = {key: value for key, value in parts.items() if value or key in entry.metadata}
    metadata = {**entry.metadata, **news}
    if same(metadata, entry.metadata):
        return Change(catalog, entry)
    changed = _changed(entry, metadata=metadata)
    return Change(catalog.with_entry(changed), changed)


def delete(catalog: Catalog, model_name: str, version: int) -> Change:
    """Forget a version; its file stays."""
    entry = catalog.get(model_name, version)
    if entry.status is Status.PRODUCTION:
        raise InProduction(model_name, version, "deleted")
    return Change(catalog.without(model_name, version), entry)


def next_version(catalog: Catalog, model_name: str) -> int:
    """The version after the highest that the model has, or has had in production. Raises InvalidField past the last."""
    recorded = history.highest_version(catalog.history, model_name)
    version = max(catalog.highest_version(model_name), recorded) + 1
    if version > MAX_VERSION:
        raise InvalidField("version", f"a version, for none is free above {MAX_VERSION}")
    return version


def _same_registration(earlier: Entry, wanted: Registration) -> Entry:
    same = (
        earlier.model_name == wanted.model_name
        and wanted.version in (0, earlier.version)
        and earlier.path == wanted.path
        and wanted.sha256 in ("", earlier.sha256)
    )
    if not same:
        raise RequestIdReused(
            wanted.request_id, f"register version {earlier.version} of model {earlier.model_name!r} at {earlier.path!r}"
        )
    return earlier


def _promoted(entry: Entry, artifacts: Artifacts, moment: Moment) -> Entry:
    news = {"status": Status.PRODUCTION.value, "activation_timestamp": as_text(moment.time)}
    return _changed(entry, **news, **verify(entry, artifacts))


def verify(entry: Entry, artifacts: Artifacts) -> dict[str, Any]:
    """Check that an entry's file is the one that was registered; returns what the entry does not say of it yet.

    Raises ArtifactUnusable or ArtifactChanged.
    """
    try:
        if not entry.sha256:
            return _described(artifacts.inspect(entry.path))
        found = artifacts.digest(entry.path, entry.weights_files)
    except RegistryError as error:
        raise ArtifactUnusable(entry.model_name, entry.version, str(error)) from error
    if entry.size_bytes and found.size_bytes != entry.size_bytes:
        raise ArtifactChanged(entry.path, "size_bytes", entry.size_bytes, found.size_bytes)
    if found.sha256 != entry.sha256:
        raise ArtifactChanged(entry.path, "sha256", entry.sha256, found.sha256)
    return {}


def _described(artifact: Artifact) -> dict[str, Any]:
    described: dict[str, Any] = {
        "sha256": artifact.digest.sha256,
        "size_bytes": artifact.digest.size_bytes,
        "inputs": [spec.as_raw() for spec in artifact.inputs],
        "outputs": [spec.as_raw() for spec in artifact.outputs],
        "opset": artifact.opset,
    }
    if artifact.weights_files:
        described["weights_files"] = list(artifact.weights_files)
    return described


def _changed(entry: Entry, **news: Any) -> Entry:
    return read_entry({**entry.raw, **news})
