"""A copy of a video with its results drawn in. Needs the extra "video"."""

from __future__ import annotations

import contextlib
import os
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from PIL import Image

from videoai import drawing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from videoai.inference.v1 import inference_pb2

    Results = Sequence[inference_pb2.FrameResult]


def annotated_frames(source: str | os.PathLike[str], results: Results) -> Iterator[tuple[av.VideoFrame, Image.Image]]:
    """Decode `source` again; yield each frame from the first result to the last, and its picture with what was found.

    `results` are those of this video, in order. A frame between two results shows the earlier one.
    """
    if not results:
        return
    position = 0
    with av.open(os.fspath(source)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for index, frame in enumerate(container.decode(video=0)):
            if index < results[0].frame_index:
                continue
            if index > results[-1].frame_index:
                return
            while position + 1 < len(results) and results[position + 1].frame_index <= index:
                position += 1
            picture = _upright(frame, results[position])
            drawing.annotate(picture, results[position])
            yield frame, picture


def save_video(source: str | os.PathLike[str], results: Results, destination: Path) -> None:
    """Write `destination`, an MP4 with H.264, with the timing of `source`; it appears whole or not at all.

    Raises ValueError if there are no results or the video cannot be read, OSError where a file cannot be written.
    """
    if not results:
        raise ValueError("no frame was analysed, so there is no video to save")
    try:
        with _placed(destination) as path:
            _write(source, results, path)
    except av.FFmpegError as error:
        raise ValueError(error.strerror) from error


def _write(source: str | os.PathLike[str], results: Results, path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        encoder: _Encoder | None = None
        for frame, picture in annotated_frames(source, results):
            encoder = encoder or _Encoder(container, picture, frame, _frame_rate(source))
            encoder.encode(frame, picture)
        if encoder is None:
            raise ValueError("the video decodes differently here: none of its frames has a result")
        encoder.finish()


class _Encoder:
    """H.264 with the source's timestamps, counted from the first frame written."""

    def __init__(
        self, container: av.container.OutputContainer, picture: Image.Image, frame: av.VideoFrame, rate: Fraction
    ) -> None:
        self._container = container
        self._first = frame.pts or 0
        self._count = 0
        self._time_base = Fraction(frame.time_base) if frame.pts is not None and frame.time_base else 1 / rate
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
        # 4:2:0 wants even sizes: an odd last row or column is left out.
        stream.width, stream.height = picture.width - picture.width % 2, picture.height - picture.height % 2
        stream.pix_fmt = "yuv420p"
        stream.time_base = self._time_base
        stream.codec_context.time_base = self._time_base
        self._stream = stream

    def encode(self, frame: av.VideoFrame, picture: Image.Image) -> None:
        size = (0, 0, self._stream.width, self._stream.height)
        drawn = av.VideoFrame.from_ndarray(np.asarray(picture.crop(size)), format="rgb24")
        drawn.pts = self._count if frame.pts is None else frame.pts - self._first
        drawn.time_base = self._time_base
        self._count += 1
        self._container.mux(self._stream.encode(drawn))

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))


def _frame_rate(source: str | os.PathLike[str]) -> Fraction:
    with av.open(os.fspath(source)) as container:
        return Fraction(container.streams.video[0].average_rate or 30)


def _upright(frame: av.VideoFrame, result: inference_pb2.FrameResult) -> Image.Image:
    """Bring a decoded frame to the picture as displayed, in which the boxes of `result` are."""
    picture = Image.fromarray(np.ascontiguousarray(_turned(frame)))
    shown = (result.width, result.height)
    return picture if picture.size == shown else picture.resize(shown)


def _turned(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) as the display matrix has them, to the nearest quarter turn, mirrored or not."""
    pixels: NDArray[np.uint8] = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    try:
        data = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    except ValueError:  # PyAV lists no side data if there is a kind among them that it does not know
        return np.rot90(pixels, round(frame.rotation / 90))
    if data is None:
        return pixels
    # To the right go a of x and c of y, down b of x and d of y.
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


@contextlib.contextmanager
def _placed(destination: Path) -> Iterator[Path]:
    """A temporary file beside `destination` that takes its place at the end, or goes if anything fails."""
    handle, name = tempfile.mkstemp(prefix=f".{destination.name}.", suffix=".part", dir=destination.parent)
    os.close(handle)
    path = Path(name)
    try:
        yield path
        umask = os.umask(0)
        os.umask(umask)
        path.chmod(0o666 & ~umask)
        path.replace(destination)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
