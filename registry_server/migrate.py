"""Moving a registry from one storage to another, with everything in it."""

# ruff: noqa: N818 - each name says what happened.

from __future__ import annotations

from registry_server.catalog import Catalog
from registry_server.locations import Location
from registry_server.storage import Storage


class CannotMigrate(Exception):
    """The move was refused; nothing was changed."""


def migrate(source: Location, target: Location, *, force: bool, lock_timeout_seconds: float) -> Catalog:
    """Copy what `source` holds to `target`, in one change, and return it.

    Raises CannotMigrate, StorageUnavailable or RegistryFileInvalid.
    """
    if not source.path.is_file():
        raise CannotMigrate(f"there is no file to read at {source.path}")
    if source.path.resolve() == target.path.resolve():
        raise CannotMigrate(f"both names lead to {source.path}")
    catalog = _load(source.open(lock_timeout_seconds))
    _store(target.open(lock_timeout_seconds), target, catalog, force=force)
    return catalog


def _load(storage: Storage) -> Catalog:
    try:
        storage.recover()
        return storage.load()
    finally:
        storage.close()


def _store(storage: Storage, target: Location, catalog: Catalog, *, force: bool) -> None:
    def step(present: Catalog) -> Catalog:
        if not force and present.document != Catalog.empty().document:
            raise CannotMigrate(f"{target.path} holds a registry already; --force replaces what it holds")
        return catalog

    try:
        storage.recover()
        storage.transact(step)
    finally:
        storage.close()
