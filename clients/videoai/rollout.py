"""Waiting until every live replica has made something of an activation.

The decision is pure; the clients ask the registry and sleep. The watch does not carry what replicas report.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from videoai.errors import DeadlineExceeded, Unavailable
from videoai.registry.v1 import registry_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Change: TypeAlias = registry_pb2.ActivateModelVersionResponse | registry_pb2.RollbackProductionResponse


class Outcome(Enum):
    """How a rollout stands; every value but WAITING is final."""

    WAITING = "waiting"  # some replica has yet to apply the version; as a final answer: the time is over
    APPLIED = "applied"  # every live replica answers with the version
    NO_REPLICAS = "no replicas"  # no replica was live at the first look
    REJECTED = "rejected"  # at least one replica refused the version
    SUPERSEDED = "superseded"  # another version, or none, is in production by now


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one look at a rollout says. `missing` have yet to apply the version, `rejected` refused it."""

    outcome: Outcome
    rollout: registry_pb2.GetRolloutResponse
    missing: tuple[registry_pb2.Replica, ...] = ()
    rejected: tuple[registry_pb2.Replica, ...] = ()


def revision_of(change: Change) -> int:
    """Return the revision at or after which a replica's report is about this activation.

    Activating what is in production already announces nothing, so that what was reported before counts: 0.
    """
    return change.revision if change.HasField("demoted") else 0


def judge(
    rollout: registry_pb2.GetRolloutResponse, version: int, revision: int, *, had_replicas: bool, replicas: int = 0
) -> Verdict:
    """Say how the activation of `version` at `revision` stands.

    `had_replicas`: an earlier look saw a live replica. Then an empty list is waited out: after a restart of the
    registry it is empty until the replicas have come back. With `replicas` at least so many must have applied it, which
    is the only way to tell a replica that has yet to come back from one that has gone.
    """
    if rollout.revision < revision:  # read by a registry process that has yet to see the activation
        return Verdict(Outcome.WAITING, rollout, tuple(rollout.replicas))
    if rollout.production_version != version:
        return Verdict(Outcome.SUPERSEDED, rollout)
    reported = [item for item in rollout.replicas if item.seen_version == version and item.revision >= revision]
    rejected = tuple(item for item in reported if item.state == registry_pb2.MODEL_STATE_REJECTED)
    applied = [item for item in reported if item.state == registry_pb2.MODEL_STATE_APPLIED]
    missing = tuple(item for item in rollout.replicas if item not in applied and item not in rejected)
    if rejected:
        outcome = Outcome.REJECTED
    elif rollout.replicas:
        outcome = Outcome.WAITING if missing or len(applied) < replicas else Outcome.APPLIED
    else:
        outcome = Outcome.WAITING if had_replicas or replicas else Outcome.NO_REPLICAS
    return Verdict(outcome, rollout, missing, rejected)


class Wait:
    """One wait: judges each look, tells of changes and knows when the time is over."""

    def __init__(
        self,
        version: int,
        revision: int,
        *,
        replicas: int,
        timeout_seconds: float,
        interval_seconds: float,
        on_change: Callable[[Verdict], None] | None,
    ) -> None:
        self._version, self._revision, self._replicas = version, revision, replicas
        self._interval_seconds = interval_seconds
        self._on_change = on_change
        self._end = time.monotonic() + timeout_seconds
        self._last: Verdict | None = None
        self._had_replicas = False

    @property
    def pause_seconds(self) -> float:
        """How long to wait before the next look."""
        return max(0.0, min(self._interval_seconds, self._end - time.monotonic()))

    def look(self, rollout: registry_pb2.GetRolloutResponse) -> Verdict | None:
        """Take an answer of the registry; return the verdict if it is the last."""
        verdict = judge(
            rollout, self._version, self._revision, had_replicas=self._had_replicas, replicas=self._replicas
        )
        self._had_replicas = self._had_replicas or bool(rollout.replicas)
        if self._on_change and (self._last is None or self._last.rollout.replicas != rollout.replicas):
            self._on_change(verdict)
        self._last = verdict
        return None if verdict.outcome is Outcome.WAITING and not self._over else verdict

    def missed(self, error: Unavailable | DeadlineExceeded) -> None:
        """Take a failure to ask: a registry that is restarted comes back. Raises it once the time is over."""
        if self._over:
            raise error

    @property
    def _over(self) -> bool:
        return time.monotonic() >= self._end


def follow(ask: Callable[[], registry_pb2.GetRolloutResponse], wait: Wait) -> Verdict:
    """Ask until the last verdict."""
    while True:
        try:
            if verdict := wait.look(ask()):
                return verdict
        except (Unavailable, DeadlineExceeded) as error:
            wait.missed(error)
        time.sleep(wait.pause_seconds)


async def follow_async(ask: Callable[[], Awaitable[registry_pb2.GetRolloutResponse]], wait: Wait) -> Verdict:
    """Ask until the last verdict."""
    while True:
        try:
            if verdict := wait.look(await ask()):
                return verdict
        except (Unavailable, DeadlineExceeded) as error:
            wait.missed(error)
        await asyncio.sleep(wait.pause_seconds)
