"""How often a frame is copied on its way into the session; docs/performance.md names each copy."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from inference_server.detection import Layout
from inference_server.engine import Device, ModelVersion, load
from inference_server.video import DecoderPool, StreamRequest, Target
from inference_server.video.memory import FrameMemory, create, frame_bytes
from inference_server.video.prepare import Pose, Preparer

av = pytest.importorskip("av")


async def two_frames(tools: Any, pool: DecoderPool, video: bytes, layout: Layout) -> list[Any]:
    stream = await pool.open(StreamRequest(max_frames=2), Target(layout, 0))
    async with stream:
        await tools.send(stream, video)
        return [frame async for frame in stream]


async def test_frames_are_views_of_the_decoders_memory(tools: Any, pool: DecoderPool, video: bytes) -> None:
    layout = Layout(64, 48)
    first, second = await two_frames(tools, pool, video, layout)
    for frame in (first, second):
        assert frame.pixels.dtype == np.uint8
        assert not frame.pixels.flags.owndata
        assert not frame.pixels.flags.writeable
    apart = abs(first.pixels.ctypes.data - second.pixels.ctypes.data)
    assert apart % frame_bytes(layout) == 0, "both lie in slots of one mapping"


class Session:
    """Stands before a session and keeps what it is given."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.given: list[np.ndarray[Any, Any]] = []

    def run(self, names: Any, inputs: dict[str, Any], *rest: Any) -> Any:
        self.given += inputs.values()
        return self._session.run(names, inputs, *rest)


async def test_one_frame_enters_the_session_where_the_decoder_put_it_and_several_are_stacked_once(
    tools: Any, pool: DecoderPool, video: bytes, tmp_path: Any, monkeypatch: Any
) -> None:
    models = pytest.importorskip("demo.models")
    models.build_v2(tmp_path / "model.onnx")
    model = load(ModelVersion("shapes", 2, tmp_path / "model.onnx", "", {}), Device("cpu"))
    session = Session(model._session)
    monkeypatch.setattr(model, "_session", session)
    frames = [frame.pixels for frame in await two_frames(tools, pool, video, model.layout)]
    stacks: list[int] = []
    concatenate = np.concatenate
    monkeypatch.setattr(np, "concatenate", lambda arrays: stacks.append(len(arrays)) or concatenate(arrays))

    model.run_rows([{model.frames_input: frames[0][None]}], model.read_outputs)
    (alone,) = session.given
    assert np.shares_memory(alone, frames[0])
    assert stacks == []

    model.run_rows([{model.frames_input: frame[None]} for frame in frames], model.read_outputs)
    together = session.given[1]
    assert together.dtype == np.uint8
    assert stacks == [2]
    assert all(np.array_equal(row, frame) for row, frame in zip(together, frames, strict=True))


@pytest.mark.parametrize(("pix_fmt", "planes"), [("yuv420p", 3), ("rgb24", 1)])
def test_what_libswscale_wrote_goes_into_the_slot_by_one_copy(pix_fmt: str, planes: int, monkeypatch: Any) -> None:
    layout = Layout(64, 64)
    memory = FrameMemory(create(frame_bytes(layout)), 1, frame_bytes(layout), writable=True)
    frame = av.VideoFrame(128, 128, pix_fmt)
    preparer = Preparer(max_pixels=1_000_000)
    scaled = preparer._scale(frame, 64, 64)
    assert len(scaled) == planes
    # What is written is a view of libswscale's own memory: nothing lies between it and the slot.
    assert not any(pixels.flags.owndata for _, pixels in scaled)
    assert sum(pixels.size for _, pixels in scaled) == frame_bytes(layout)
    into = memory.view(0, layout)
    assert preparer.prepare(frame, Pose(), layout, 0, into) == (128, 128)
    assert not into.flags.owndata


def test_memory_stays_pinned_as_long_as_there_is_a_view_of_it() -> None:
    layout, pinned = Layout(16, 16), []

    def pin(memory: np.ndarray[Any, Any]) -> Any:
        pinned.append((memory.ctypes.data, memory.nbytes))
        return lambda: pinned.append(bytes(ctypes.string_at(address, 3)))  # it is still mapped

    fd = create(2 * frame_bytes(layout))
    memory = FrameMemory(fd, 2, frame_bytes(layout), writable=True, pin=pin)
    view = memory.view(1, layout)
    view[0, 0] = 1, 2, 3
    address = view.ctypes.data
    assert pinned == [(address - frame_bytes(layout), 2 * frame_bytes(layout))]
    row = view[0]
    del memory, view
    assert len(pinned) == 1
    del row
    assert pinned[1:] == [b"\1\2\3"]
