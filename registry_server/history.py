"""Which version was in production when: the bounded record behind rollback and repeated requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from registry_server.document import Raw, fingerprint
from registry_server.entry import InvalidEntry, as_text, check_name, is_integer, read_timestamp
from registry_server.errors import InvalidField

MAX_RECORDS = 1000


@dataclass(frozen=True, slots=True)
class Activation:
    """One change of production. `previous` and `version` are 0 where no version was or is in production.

    `requested_by` is who asked for it, if the caller said so; `edited` where nobody called, but the file was changed.
    """

    raw: Raw
    model_name: str
    previous: int
    version: int
    revision: int
    request_id: str
    requested_by: str
    edited: bool
    fingerprint: bytes

    @property
    def time(self) -> datetime | None:
        """When; None in a record that does not say."""
        return read_timestamp(self.raw, "timestamp")


History = tuple[Activation, ...]
"""Oldest first."""


def read_activation(raw: object) -> Activation:
    """Check a record of the file and return the view of it. Raises InvalidEntry."""
    if not isinstance(raw, dict):
        raise InvalidEntry((), "history: expected an object that describes one activation")
    try:
        check_name(raw.get("model_name"))
    except InvalidField as error:
        raise InvalidEntry(("model_name",), str(error)) from None
    for key in ("from", "to", "revision"):
        if not is_integer(raw.get(key)) or raw[key] < 0:
            raise InvalidEntry((key,), str(InvalidField(key, "a whole number >= 0", raw.get(key))))
    for key, kind, expected in (
        ("request_id", str, "a string"),
        ("by", str, "a string"),
        ("edited", bool, "a boolean"),
    ):
        if key in raw and not isinstance(raw[key], kind):
            raise InvalidEntry((key,), str(InvalidField(key, expected, raw[key])))
    read_timestamp(raw, "timestamp")
    return _view(raw)


def activation(
    model_name: str,
    previous: int,
    version: int,
    *,
    moment: datetime,
    revision: int,
    request_id: str = "",
    requested_by: str = "",
    edited: bool = False,
) -> Activation:
    """A new record."""
    raw: dict[str, Any] = {
        "model_name": model_name,
        "from": previous,
        "to": version,
        "timestamp": as_text(moment),
        "revision": revision,
    }
    if request_id:
        raw["request_id"] = request_id
    if requested_by:
        raw["by"] = requested_by
    if edited:
        raw["edited"] = True
    return _view(raw)


def _view(raw: Raw) -> Activation:
    return Activation(
        raw,
        raw["model_name"],
        raw["from"],
        raw["to"],
        raw["revision"],
        raw.get("request_id", ""),
        raw.get("by", ""),
        raw.get("edited", False),
        fingerprint(raw),
    )


def extend(history: History, records: Iterable[Activation], limit: int = MAX_RECORDS) -> History:
    """Append, then drop the oldest beyond `limit`; the newest record of each model always stays."""
    full = (*history, *records)
    surplus = len(full) - limit
    if surplus <= 0:
        return full
    last = {record.model_name: index for index, record in enumerate(full)}
    kept = []
    for index, record in enumerate(full):
        if surplus > 0 and last[record.model_name] != index:
            surplus -= 1
        else:
            kept.append(record)
    return tuple(kept)


def of_model(history: Sequence[Activation], model_name: str) -> list[Activation]:
    """The records of one model, newest first."""
    return [record for record in reversed(history) if record.model_name == model_name]


def find_request(history: Sequence[Activation], request_id: str) -> Activation | None:
    """The change that was made with this request_id."""
    return next((record for record in reversed(history) if record.request_id == request_id), None)


def newest(history: Sequence[Activation]) -> dict[str, Activation]:
    """The newest record of each model."""
    return {record.model_name: record for record in history}


def before(history: Sequence[Activation], model_name: str, present: int) -> int:
    """The version that was in production before `present`; 0 if none is known."""
    last = newest(history).get(model_name)
    if last is None:
        return 0
    return last.previous if last.version == present else last.version


def highest_version(history: Sequence[Activation], model_name: str) -> int:
    """The highest version of a model that was ever recorded, so that no number is given out twice."""
    return max((max(r.previous, r.version) for r in history if r.model_name == model_name), default=0)
