"""What a registry finds on its own machine, before it serves or beside one that does: folder, storage, model files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from videoai.cli.findings import Finding, Outcome

from registry_server import mounts, steps
from registry_server.artifacts import MODELS_FOLDER, ArtifactFolder
from registry_server.catalog import Catalog
from registry_server.entry import Status
from registry_server.errors import RegistryError
from registry_server.files import Files
from registry_server.json_storage import MOUNT_THE_FOLDER
from registry_server.settings import Settings
from registry_server.storage import Storage

TOPIC = "the registry's folder"
LEAST_FREE_BYTES = 2**30

# What each kind of file system does to the promise that an OK survives.
_NETWORK = "its locks and its fsync are no better than its server's; keep the registry on a local disk"
_DOUBTS = {
    **dict.fromkeys(("tmpfs", "ramfs"), "what is written there is gone after a restart"),
    "overlay": "it may be a container's own layer, which goes with the container: mount a volume there",
    **dict.fromkeys(
        ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre", "afs", "fuse.sshfs"), _NETWORK
    ),
}


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield what is found out about the folder, the registry in it and the models that it names. Changes nothing."""
    models = settings.root.resolve() / MODELS_FOLDER
    storage = settings.storage.under(settings.root).open(settings.lock_timeout)
    file = storage.files[0]
    folders = list(dict.fromkeys((models, file.parent)))
    if not models.is_dir():
        advice = f"name the folder that holds {MODELS_FOLDER}/ with --root, or let the server make it"
        yield _finding("folder", "warning", f"{models} is not there", advice)
    for folder in folders:
        if folder.is_dir():
            yield _writable(folder)
            yield _mounted(folder)
            yield _free(folder)
    if not os.path.lexists(file):
        yield _finding("storage", "ok", f"{file} is not there yet; the first change makes it")
        return
    yield from _stored(storage, file, ArtifactFolder(settings.root))


def _finding(check: str, outcome: Outcome, found: str, advice: str = "") -> Finding:
    return Finding(TOPIC, check, outcome, found, advice)


def _writable(folder: Path) -> Finding:
    """Do what a change does to a file of no meaning: write, sync, replace, sync the folder."""
    files, began = Files(), perf_counter()
    first, second = (folder / f".doctor-{os.getpid()}{end}" for end in (".tmp", ""))
    try:
        _sync_and_close(files, files.create(first), b"{}\n")
        files.replace(first, second)
        _sync_and_close(files, files.open_folder(folder), b"")
    except OSError as error:
        advice = f"let the user that runs the registry (here {os.geteuid()}) write there"
        return _finding("writable", "failed", f"{folder}: {error.strerror}", advice)
    finally:
        for path in (first, second):
            path.unlink(missing_ok=True)
    return _finding("writable", "ok", f"{folder}; a durable write takes {(perf_counter() - began) * 1000:.1f} ms")


def _sync_and_close(files: Files, descriptor: int, data: bytes) -> None:
    try:
        if data:
            files.write(descriptor, memoryview(data))
        files.sync(descriptor)
    finally:
        files.close(descriptor)


def _mounted(folder: Path) -> Finding:
    kind = mounts.file_system(folder)
    if doubt := _DOUBTS.get(kind):
        return _finding("file system", "warning", f"{folder} is on {kind}", doubt)
    return _finding("file system", "ok", f"{folder} is on {kind or 'a file system that this system does not name'}")


def _free(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        return _finding(
            "space", "warning", f"{free / 1e6:.0f} MB are free for {folder}", "uploads need room for a model"
        )
    return _finding("space", "ok", f"{free / 1e9:.0f} GB are free for {folder}")


def _stored(storage: Storage, file: Path, artifacts: ArtifactFolder) -> Iterator[Finding]:
    if mounts.is_mount(file):
        yield _finding("storage", "failed", f"{file} is a mount of its own", MOUNT_THE_FOLDER.partition("; ")[2])
    try:
        catalog = storage.load()
    except RegistryError as error:
        yield _finding("storage", "failed", str(error), "mend it, for instance with videoai models edit")
        return
    production = [entry for entry in catalog.entries if entry.status is Status.PRODUCTION]
    yield _finding("storage", "ok", f"{file}: {len(catalog.entries)} versions, {len(production)} in production")
    yield _lockable(storage, file)
    yield _usable(catalog, artifacts)


def _lockable(storage: Storage, file: Path) -> Finding:
    try:
        storage.transact(lambda catalog: catalog)
    except RegistryError as error:
        return _finding("lock", "failed", str(error), "another process holds it, or this user may not write")
    return _finding("lock", "ok", f"{file} can be locked for a change")


def _usable(catalog: Catalog, artifacts: ArtifactFolder) -> Finding:
    """Read the whole file of each version in production; of the others, whether there is one."""
    wrong, read = [], 0
    for entry in catalog.entries:
        try:
            if entry.status is Status.PRODUCTION:
                steps.verify(entry, artifacts)
                read += 1
            elif entry.status is Status.STAGING:
                artifacts.open(entry.path).close()
        except RegistryError as error:
            wrong.append(f"{entry.model_name} version {entry.version}: {error}")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        advice = "put the file back as it was, or register what lies there as a new version"
        return _finding("model files", "failed", "; ".join(wrong[:3]) + more, advice)
    return _finding("model files", "ok", f"all there; the digests of the {read} in production are as registered")
