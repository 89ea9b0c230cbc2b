"""What every family of models offers, and what a family's file has to bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from inference_server.detection.geometry import Layout, Placement
from inference_server.detection.results import Detections, Options
from inference_server.detection.signature import GraphSignature, PictureInput

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
    def picture(self) -> PictureInput:
        """The input that pictures go into."""

    @property
    def layout(self) -> Layout:
        """The picture that goes into it."""

    def check(self, outputs: Outputs) -> None:
        """Raise ModelRefused where `outputs` are not what this family reads; asked once, when the model is loaded."""

    def decode(self, outputs: Outputs, placement: Placement, options: Options) -> Detections:
        """The objects that `outputs` tell of, in pixels of the source picture that `placement` placed."""


class Build(Protocol):
    """Makes a family for a model, or raises ModelRefused with what it would have expected."""

    def __call__(self, signature: GraphSignature, *, declared: bool) -> Family:
        """`declared` is true where the registry entry names this family, so that less has to follow from the file."""


@dataclass(frozen=True, slots=True)
class FamilyKind:
    """A family as `recognise` tries it; `by_itself` is false for one that is taken only where it is declared."""

    name: str
    build: Build
    by_itself: bool = True
