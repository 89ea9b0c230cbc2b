"""What the decoders of one server take, and what they may use."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from inference_server.cpus import usable_cpus
from inference_server.video.codecs import CODECS, DEFAULT_CODECS
from inference_server.video.containers import CONTAINERS, DEFAULT_CONTAINERS

MIB = 1024 * 1024


def _default_spool_folder() -> Path:
    return Path(tempfile.gettempdir())


@dataclass(frozen=True, slots=True)
class DecoderSettings:
    """Limits of each decoder process, which decodes one video.

    `containers`, `codecs`: names of those that are taken.
    `slots`: frames a stream may have prepared and not released; its frame memory is slots x width x height x 3 bytes.
    `max_pixels`: largest picture, as coded and as displayed.
    `max_video_frames`, `max_video_seconds`, `max_video_bytes`: where a video is ended, in decoded frames, in time
    from its first frame, in encoded bytes; 0 is no limit.
    `max_tracks`: streams of pictures, sound and text in one container.
    `max_spool_bytes`: largest MP4 or MOV that keeps its index at the end; such a file is kept, without a name, in
    `spool_folder` until it is decoded.
    `memory_limit_bytes`: address space of a decoder beyond what it starts with.
    `decode_timeout_seconds`: a decoder that does not answer for so long is killed; one that waits does answer.
    `max_frame_cpu_seconds`: processor time that a decoder may take from one frame, or picture, to the next.
    `corrupt_packet_budget`: packets that may fail to decode before the video is given up.
    `threads`: how many may decode all videos together, and so one alone; each video has one at least.
    Raises ValueError naming the field that is out of range.
    """

    containers: Sequence[str] = DEFAULT_CONTAINERS
    codecs: Sequence[str] = DEFAULT_CODECS
    slots: int = 4
    max_pixels: int = 8192 * 8192
    max_video_frames: int = 0
    max_video_seconds: float = 0.0
    max_video_bytes: int = 0
    max_tracks: int = 128
    max_spool_bytes: int = 2048 * MIB
    spool_folder: Path = field(default_factory=_default_spool_folder)
    memory_limit_bytes: int = 2048 * MIB
    decode_timeout_seconds: float = 10.0
    max_frame_cpu_seconds: float = 10.0
    corrupt_packet_budget: int = 256
    threads: int = field(default_factory=usable_cpus)

    def __post_init__(self) -> None:
        for name, least, most in (
            ("slots", 1, 1024),
            ("max_pixels", 1, 2**31 - 1),
            ("max_video_frames", 0, 2**62),
            ("max_video_seconds", 0, 2**31),
            ("max_video_bytes", 0, 2**62),
            ("max_tracks", 1, 1000),
            ("max_spool_bytes", 0, 2**62),
            ("memory_limit_bytes", 64 * MIB, 2**62),
            ("decode_timeout_seconds", 0.1, 86_400),
            ("max_frame_cpu_seconds", 0.01, 86_400),
            ("corrupt_packet_budget", 0, 2**31 - 1),
            ("threads", 1, 1024),
        ):
            if not least <= (value := getattr(self, name)) <= most:
                raise ValueError(f"{name}: expected {least}..{most}, got {value}")
        for name, known in (("containers", CONTAINERS), ("codecs", CODECS)):
            unknown = sorted(set(getattr(self, name)) - set(known))
            if unknown or not getattr(self, name):
                raise ValueError(f"{name}: expected some of {', '.join(known)}, got {', '.join(unknown) or 'none'}")
        if not self.spool_folder.is_dir():
            raise ValueError(f"spool_folder: expected a folder that exists, got {self.spool_folder}")

    def message(self) -> dict[str, Any]:
        """What a decoder is told."""
        return asdict(self) | {"spool_folder": str(self.spool_folder)}

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Self:
        """What `message` told, in a message with other things."""
        given = {known.name: message[known.name] for known in fields(cls)}
        return cls(**given | {"spool_folder": Path(given["spool_folder"])})
