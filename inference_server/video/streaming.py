"""One video in a decoder process: decoded, sampled, prepared, and handed to the server slot by slot."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from itertools import chain
from time import perf_counter
from typing import Any

import numpy as np
from av import VideoFrame
from numpy.typing import NDArray

from inference_server.errors import FrameNotFound, VideoLimitExceeded
from inference_server.video import limits
from inference_server.video.aside import Aside
from inference_server.video.decoding import Decoding
from inference_server.video.link import Link
from inference_server.video.memory import FrameMemory
from inference_server.video.prepare import Pose, PoseReader, Preparer
from inference_server.video.sampling import Choice, Clock, Resumption, Sampler
from inference_server.video.settings import DecoderSettings
from inference_server.video.source import open_source, open_spool
from inference_server.video.values import StreamRequest, Target


@dataclass(frozen=True, slots=True)
class _Sample:
    """A frame that is wanted."""

    frame: VideoFrame
    index: int
    time_base: Fraction
    seconds: float
    decode_seconds: float
    received: float  # by the clock of this machine, in seconds since 1970


class StreamJob:
    """Decodes, and hands each frame to a second thread that prepares it while the next one is decoded.

    Messages are handled by the thread that decodes: while it waits for input or for a slot, and between frames. All
    files that it needs are open once it is made.
    """

    def __init__(
        self, link: Link, task: dict[str, Any], target: Target, memory: FrameMemory, file: int | None = None
    ) -> None:
        self._link = link
        self._file = file
        self._settings = DecoderSettings.of(task)
        self._spool = open_spool(self._settings.spool_folder)
        self._request = StreamRequest(**task["request"])
        # The newest frame is not to wait for others.
        self._threads = 1 if self._request.latest else self._settings.threads
        self._preparer = Preparer(self._settings.max_pixels)
        self._preparing = Aside()
        self._resumption = Resumption(self._request.resume_after_pts)
        self._decoded = self._sent = self._dropped = self._left_out = 0
        self._held: _Sample | None = None  # the newest frame without a slot, if only the newest counts
        self._stopped = False
        self._decoding: Decoding
        self._poses: PoseReader
        self.retarget(target, memory)

    def retarget(self, target: Target, memory: FrameMemory | None) -> None:
        """From now on prepare for `target`, in `memory` if given: all of its slots are free.

        What was begun for another target has been sent when this returns.
        """
        self._preparing.wait()
        self._target = target
        if memory is not None:
            self._memory = memory
            self._free = list(range(memory.slots))
            self._preparer.forget_borders()
            self._send_held()

    def release(self, slots: Sequence[int]) -> None:
        """The server is done with `slots`."""
        self._free += slots
        self._send_held()

    def run(self) -> None:
        """Decode to the end, and tell the server about it. Raises VideoError."""
        try:
            self._run()
        finally:  # whatever ends the video comes behind its frames
            self._preparing.wait()
        self._preparing.check()
        self._finish()

    def _run(self) -> None:
        demuxer, source = open_source(self._link, self._settings, self._spool, self._file)
        self._go_on()
        self._decoding = Decoding(
            demuxer,
            source,
            self._settings,
            wall_clock=self._request.wall_clock,
            threads=self._threads,
            on_step=self._go_on,
        )
        self._poses = PoseReader(self._decoding.pixel_shape)
        for sample in self._samples(self._start(self._decoding.frames())):
            self._offer(sample)
            if self._enough():
                break
        if self._resumption.waiting and not self._stopped:
            raise FrameNotFound(
                f"resume_after_pts: expected the pts of a frame, got {self._request.resume_after_pts}, which none of"
                f" {self._decoded} has"
            )
        while self._held is not None:
            self._link.serve(wait=True)

    def _start(self, frames: Iterator[tuple[VideoFrame, float]]) -> Iterator[tuple[VideoFrame, float]]:
        """Tell the server about the video as soon as its first frame shows how it is displayed."""
        first = next(frames)
        frame = first[0]
        size = self._poses.read(frame).displayed(frame.width, frame.height)
        self._link.send(type="started", **asdict(self._decoding.info(*size)))
        return chain((first,), frames)

    def _samples(self, frames: Iterator[tuple[VideoFrame, float]]) -> Iterator[_Sample]:
        clock, sampler = Clock(self._decoding.frame_rate), Sampler(self._request)
        for index, (frame, decode_seconds) in enumerate(frames, self._request.first_index):
            self._decoded += 1
            self._go_on(self._decoding.threads)
            time_base = self._decoding.time_base(frame)
            seconds = self._request.first_seconds + clock.seconds(frame.pts, time_base)
            self._check_length(index, seconds)
            left_out = self._resumption.leaves_out(frame.pts)
            match sampler.choose(index, seconds):
                case Choice.TAKE if left_out:
                    self._left_out += 1
                    if self._enough():
                        return
                case Choice.TAKE:
                    yield _Sample(frame, index, time_base, seconds, decode_seconds, time.time())
                case Choice.STOP:
                    self._stopped = True
                    return

    def _go_on(self, threads: int = 1) -> None:
        """Give the next frame of each thread its time of the processor, and see what the server says."""
        limits.restart_clock(threads * self._settings.max_frame_cpu_seconds)
        self._link.serve(wait=False)

    def _enough(self) -> bool:
        """Whether all the frames that the request asks for have been sent, before or now."""
        self._stopped = self._left_out + self._sent + (self._held is not None) == self._request.max_frames
        return self._stopped

    def _check_length(self, index: int, seconds: float) -> None:
        frames, length = self._settings.max_video_frames, self._settings.max_video_seconds
        if 0 < frames <= index:
            raise VideoLimitExceeded(f"max_video_frames: expected at most {frames} frames, got more")
        if 0 < length < seconds:
            raise VideoLimitExceeded(f"max_video_seconds: expected at most {length:g} s, got a frame at {seconds:g} s")

    def _offer(self, sample: _Sample) -> None:
        if self._request.latest:
            self._dropped += self._held is not None
            self._held = sample
            self._send_held()
            return
        while not self._free:
            self._link.serve(wait=True)
        self._send(sample)

    def _send_held(self) -> None:
        if self._held is not None and self._free:
            sample, self._held = self._held, None
            self._send(sample)

    def _send(self, sample: _Sample) -> None:
        slot, frame = self._free.pop(), sample.frame
        message = {
            "slot": slot,
            "generation": self._target.generation,
            "frame_index": sample.index,
            "pts": frame.pts,
            "time_base": [sample.time_base.numerator, sample.time_base.denominator],
            "time_seconds": sample.seconds,
            "decode_seconds": sample.decode_seconds,
            **self._wall_clock(sample),
        }
        into = self._memory.view(slot, self._target.layout)
        self._preparing.begin(partial(self._prepare, frame, self._poses.read(frame), slot, into, message))
        self._sent += 1

    def _prepare(
        self, frame: VideoFrame, pose: Pose, slot: int, into: NDArray[np.uint8], message: dict[str, Any]
    ) -> None:
        """In the other thread; the target stays as it is meanwhile."""
        started = perf_counter()
        width, height = self._preparer.prepare(frame, pose, self._target.layout, slot, into)
        prepare_seconds = perf_counter() - started
        self._link.send(type="frame", width=width, height=height, prepare_seconds=prepare_seconds, **message)

    def _wall_clock(self, sample: _Sample) -> dict[str, Any]:
        if not self._request.wall_clock:
            return {}
        taken = self._decoding.taken(sample.frame)
        return {"wall_clock": sample.received if taken is None else taken, "camera": taken is not None}

    def _finish(self) -> None:
        self._link.send(
            type="finished",
            frames_decoded=self._decoded,
            frames_dropped=self._dropped,
            corrupt_packets=self._decoding.corrupt_packets,
            truncated=self._decoding.truncated,
            stopped=self._stopped,
        )
