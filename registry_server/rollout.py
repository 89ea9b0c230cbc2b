"""What the live replicas have made of each model. Kept in memory: a replica that is gone is no longer shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from registry_server.errors import UnknownInstance

MAX_ERROR = 4096


class Progress(Enum):
    """How far a replica has come with a version."""

    UNKNOWN = "unknown"
    RECEIVED = "received"
    LOADING = "loading"
    APPLIED = "applied"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Report:
    """What a replica says of a model. `running_version` 0 = none; `error` at most MAX_ERROR characters."""

    version: int = 0
    revision: int = 0
    progress: Progress = Progress.UNKNOWN
    running_version: int = 0
    error: str = ""
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Replica:
    """One live replica and its last report on one model."""

    instance_id: str
    connected: datetime
    report: Report


@dataclass(slots=True)
class _Instance:
    """`watches` are its live watches: the names that each follows, None for all, and when it began."""

    watches: list[tuple[frozenset[str] | None, datetime]] = field(default_factory=list)
    reports: dict[str, Report] = field(default_factory=dict)

    def follows(self, model_name: str) -> bool:
        return any(names is None or model_name in names for names, _ in self.watches)


class Rollouts:
    """Reports of the live replicas.

    A replica may have several watches at once, as when it comes back before its old connection is known to be lost.
    Its reports are forgotten with the last of them, so it repeats them after it has come back.
    """

    def __init__(self) -> None:
        self._instances: dict[str, _Instance] = {}

    @contextmanager
    def live(self, instance_id: str, names: frozenset[str] | None, now: datetime) -> Iterator[None]:
        """Show the instance for as long as its watch lasts. An empty instance_id is not shown."""
        if not instance_id:
            yield
            return
        watch = (names, now)
        instance = self._instances.setdefault(instance_id, _Instance())
        instance.watches.append(watch)
        try:
            yield
        finally:
            instance.watches.remove(watch)
            if not instance.watches:
                del self._instances[instance_id]

    def report(self, instance_id: str, model_name: str, report: Report) -> None:
        """Remember the report. Raises UnknownInstance if no live watch of this instance follows the model."""
        instance = self._instances.get(instance_id)
        if instance is None or not instance.follows(model_name):
            raise UnknownInstance(instance_id, model_name)
        instance.reports[model_name] = report

    def replicas(self, model_name: str) -> list[Replica]:
        """The live replicas that follow the model, by instance_id."""
        return [
            Replica(instance_id, instance.watches[-1][1], instance.reports.get(model_name, Report()))
            for instance_id, instance in sorted(self._instances.items())
            if instance.follows(model_name)
        ]
