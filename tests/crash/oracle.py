"""What a registry must still know after a crash: what it acknowledged, and nothing that was not asked for."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from google.protobuf.field_mask_pb2 import FieldMask
from videoai.registry.v1 import registry_pb2 as pb

STAGING, PRODUCTION, ARCHIVED = pb.MODEL_STATUS_STAGING, pb.MODEL_STATUS_PRODUCTION, pb.MODEL_STATUS_ARCHIVED
MOST_VERSIONS = 6


@dataclass(frozen=True)
class Version:
    status: int
    description: str


Versions = dict[int, Version]


@dataclass(frozen=True)
class Change:
    """A call, and what it makes of one model. With a request_id it may be sent again."""

    call: str
    request: Any
    after: Versions
    repeatable: bool


@dataclass
class Model:
    """One model with a single writer: what was acknowledged, and the change whose answer has not come, if any."""

    name: str
    path: str
    acknowledged: Versions = field(default_factory=dict)
    pending: Change | None = None
    next_version: int = 1

    def choose(self, rng: random.Random) -> Change:
        """The next change, always one that is allowed."""
        idle = [number for number, version in self.acknowledged.items() if version.status != PRODUCTION]
        staging = [number for number in idle if self.acknowledged[number].status == STAGING]
        if len(staging) < 2:
            change = self._register()
        elif len(self.acknowledged) > MOST_VERSIONS:
            change = self._delete(rng.choice(idle))
        else:
            kind = rng.choice((self._activate, self._activate, self._archive, self._describe))
            change = kind(rng.choice(staging))
        self.pending = change
        return change

    def acknowledge(self) -> None:
        """The answer to the pending change has come."""
        assert self.pending is not None
        self.acknowledged, self.pending = self.pending.after, None

    def problem(self, found: Versions) -> str | None:
        """What is wrong with what was found after a crash; None if it is the old state or the new one."""
        allowed = [self.acknowledged, *([self.pending.after] if self.pending else [])]
        if found in allowed:
            return None
        return f"{self.name}: found {found}, expected {' or '.join(map(str, allowed))}"

    def settle(self, found: Versions) -> None:
        """Go on from what was found; the pending change has been decided."""
        self.acknowledged, self.pending = found, None

    def _register(self) -> Change:
        number, self.next_version = self.next_version, self.next_version + 1
        metadata = pb.ModelMetadata(description="new")
        request = pb.RegisterModelRequest(
            model_name=self.name, version=number, path=self.path, metadata=metadata, request_id=str(uuid4())
        )
        return Change("RegisterModel", request, {**self.acknowledged, number: Version(STAGING, "new")}, repeatable=True)

    def _activate(self, number: int) -> Change:
        request = pb.ActivateModelVersionRequest(model_name=self.name, version=number, request_id=str(uuid4()))
        after = {
            key: replace(version, status=STAGING) if version.status == PRODUCTION else version
            for key, version in self.acknowledged.items()
        }
        after[number] = replace(after[number], status=PRODUCTION)
        return Change("ActivateModelVersion", request, after, repeatable=True)

    def _archive(self, number: int) -> Change:
        request = pb.ArchiveModelVersionRequest(model_name=self.name, version=number)
        after = {**self.acknowledged, number: replace(self.acknowledged[number], status=ARCHIVED)}
        return Change("ArchiveModelVersion", request, after, repeatable=False)

    def _describe(self, number: int) -> Change:
        text = str(uuid4())
        request = pb.UpdateModelMetadataRequest(
            model_name=self.name,
            version=number,
            metadata=pb.ModelMetadata(description=text),
            update_mask=FieldMask(paths=["description"]),
        )
        after = {**self.acknowledged, number: replace(self.acknowledged[number], description=text)}
        return Change("UpdateModelMetadata", request, after, repeatable=False)

    def _delete(self, number: int) -> Change:
        request = pb.DeleteModelVersionRequest(model_name=self.name, version=number)
        after = {key: version for key, version in self.acknowledged.items() if key != number}
        return Change("DeleteModelVersion", request, after, repeatable=False)
