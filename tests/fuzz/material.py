"""What cases are made of, and which case a number is."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import corpus
from case import Case
from mutant import UploadCase
from recordings import dialogues
from shared_memory import Memories
from sources import SourceCase, Sources
from tensors import MessageCase, TensorCase
from videoai.open_inference.v2 import open_inference_pb2 as pb

SHARES = {UploadCase.kind: 55, SourceCase.kind: 20, TensorCase.kind: 20, MessageCase.kind: 5}


@dataclass(frozen=True, slots=True)
class Material:
    """`missing`: videos that this FFmpeg has no encoder for. `pictures`: a request for tensors of a picture."""

    model: str
    sources: Sources
    missing: list[str]
    memories: Memories
    pictures: pb.ModelInferRequest

    @property
    def digest(self) -> str:
        """Tells whether a case would be the same bytes elsewhere."""
        files = [*self.sources.videos.items(), *self.sources.pictures.items()]
        files += [(name, b"".join((*one.answers, *one.media))) for name, one in self.sources.dialogues.items()]
        return hashlib.sha256(b"".join(name.encode() + data for name, data in files)).hexdigest()

    def case(self, number: int, kinds: Collection[str]) -> Case:
        """The case of that number; the number says, too, of which of `kinds` it is."""
        wanted = [kind for kind in SHARES if kind in kinds]
        rng = random.Random(f"kind of {number}")  # noqa: S311 - choices, not secrets
        match rng.choices(wanted, [SHARES[kind] for kind in wanted])[0]:
            case UploadCase.kind:
                return UploadCase(number, self.sources.videos, self.sources.pictures, self.model)
            case SourceCase.kind:
                return SourceCase(number, self.sources, self.model)
            case TensorCase.kind:
                return TensorCase(number, self.memories, self.pictures)
            case _:
                return MessageCase(number, self.memories, self.model, self.sources.pictures["jpeg"])


def gather(model: str, folder: Path, memories: Memories, side: int) -> Material:
    """Make all of it, for a detector of pictures of `side` x `side`; `folder` is one that the server may read."""
    videos, missing = corpus.videos()
    sources = Sources(videos, corpus.pictures(), dialogues(videos), folder)
    pixels = random.Random(2).randbytes(side * side * 3)  # noqa: S311
    pictures = pb.ModelInferRequest(model_name=model, raw_input_contents=[pixels])
    pictures.inputs.add(name="frames", datatype="UINT8", shape=[1, side, side, 3])
    return Material(model, sources, missing, memories, pictures)
