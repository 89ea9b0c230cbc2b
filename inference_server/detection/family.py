"""What every family of models offers, and what a family's file has to bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from inference_server.detection.description import Description
from inference_server.detection.geometry import Placement
from inference_server.detection.pixels import PictureInput
from inference_server.detection.results import Found, Options

Outputs = Mapping[str, NDArray[Any]]


class Family(Protocol):
    """How one model's outputs are read. Outputs are those of one frame, by name, without the batch dimension."""

    @property
    def name(self) -> str:
        """The family's name, as the registry entry may declare it."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of their ids; empty where the family knows none."""

    @property
    def picture(self) -> PictureInput | None:
        """The input that pictures go into; None for a model that takes none."""

    @property
    def defaults(self) -> Options:
        """What counts where neither the request nor the registry entry says so."""

    def check(self, outputs: Outputs) -> None:
        """Raise ModelRefused where `outputs` are not what this family reads; asked once, when the model is loaded."""

    def decode(self, outputs: Outputs, placement: Placement, options: Options) -> Found:
        """What `outputs` tell of the source picture that `placement` placed, in its pixels."""


@dataclass(frozen=True, slots=True)
class FamilyKind:
    """A family as `recognise` tries it.

    `build` makes the family for a model, or raises ModelRefused with what it would have expected. `task` is what its
    models do, as exporters name it; a file that names another task is not tried. With `task` None it is taken only
    where the registry entry declares it.
    """

    name: str
    task: str | None
    build: Callable[[Description], Family]
