"""Whether what callers of a registry saw can be explained by the calls having happened one after the other.

A history is linearizable if its events can be put in an order in which each one happens between its call and its answer
and each answer is the one that a registry with nobody else about would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STAGING, PRODUCTION, ARCHIVED = "staging", "production", "archived"

State = frozenset[tuple[int, str]]
"""Version and status of each version of one model."""


@dataclass(frozen=True)
class Event:
    """One call that was answered: what it asked for, when, and what came back.

    `call` is register, activate, archive, edit (production becomes `version`, 0 = none) or read. `outcome` is OK or the
    name of a status code; `demoted` goes with an activation that was OK, `found` with an edit and a read.
    """

    start: float
    end: float
    call: str
    version: int = 0
    expected: int | None = None
    outcome: str = "OK"
    demoted: int = 0
    found: State | None = None


def linearizable(events: Sequence[Event], first: State = frozenset()) -> bool:
    """Search for an order that explains all events of one model."""
    waiting = [((1 << len(events)) - 1, first)]
    seen = set(waiting)
    while waiting:
        remaining, state = waiting.pop()
        if not remaining:
            return True
        open_now = [index for index in range(len(events)) if remaining >> index & 1]
        first_end = min(events[index].end for index in open_now)
        for index in open_now:
            after = step(state, events[index]) if events[index].start <= first_end else None
            if after is None:
                continue
            place = (remaining & ~(1 << index), after)
            if place not in seen:
                seen.add(place)
                waiting.append(place)
    return False


def step(state: State, event: Event) -> State | None:
    """The state after `event`; None if it could not have had that outcome in `state`."""
    versions = dict(state)
    outcome, demoted = expected_outcome(versions, event)
    if outcome != event.outcome or (outcome == "OK" and event.call == "activate" and demoted != event.demoted):
        return None
    if event.found is not None and event.found != state:
        return None
    if outcome == "OK":
        change(versions, event)
    return frozenset(versions.items())


def expected_outcome(versions: dict[int, str], event: Event) -> tuple[str, int]:
    """The outcome, and the version that leaves production."""
    present = in_production(versions)
    status = versions.get(event.version)
    if event.call == "register":
        return ("ALREADY_EXISTS" if status else "OK"), 0
    if event.call in ("edit", "read"):
        return "OK", 0
    if status is None:
        return "NOT_FOUND", 0
    if event.call == "archive":
        return ("FAILED_PRECONDITION" if status == PRODUCTION else "OK"), 0
    if event.expected is not None and event.expected != present:
        return "ABORTED", 0
    if status == ARCHIVED:
        return "FAILED_PRECONDITION", 0
    return "OK", (present if present != event.version else 0)


def change(versions: dict[int, str], event: Event) -> None:
    """Make the change of a call that is OK."""
    if event.call == "register":
        versions[event.version] = STAGING
    elif event.call == "archive":
        versions[event.version] = ARCHIVED
    elif event.call in ("activate", "edit"):
        for version in versions:
            if versions[version] == PRODUCTION:
                versions[version] = STAGING
        if event.version:
            versions[event.version] = PRODUCTION


def in_production(versions: dict[int, str]) -> int:
    """The version in production; 0 for none."""
    found = [version for version, status in versions.items() if status == PRODUCTION]
    assert len(found) <= 1, f"{found} are in production"
    return found[0] if found else 0
