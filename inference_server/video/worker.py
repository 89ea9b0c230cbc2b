"""What a decoder process does: one video or one set of pictures, then it ends."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Collection
from typing import Any

from inference_server.detection.geometry import Layout, Resize
from inference_server.errors import VideoError
from inference_server.video import limits, sandbox
from inference_server.video.link import Link
from inference_server.video.memory import FrameMemory
from inference_server.video.stills import prepare_stills
from inference_server.video.streaming import StreamJob
from inference_server.video.values import Target


def run_worker(control: socket.socket, data: socket.socket, layers: Collection[str]) -> None:
    """Do the one thing the server asks for within `layers` of the sandbox, then end the process."""
    worker = _Worker(Link(control, data), layers)
    try:
        worker.run()
    except VideoError as error:
        worker.fail(type(error).__name__, str(error))
    except MemoryError:
        worker.fail("VideoLimitExceeded", f"memory_limit_bytes: decoding needs more than {worker.memory_limit} bytes")
    except Exception as error:  # noqa: BLE001 - the last stop of a process; the server is told, the log has the rest
        traceback.print_exc()
        worker.fail("DecoderFailed", f"the decoder failed: {type(error).__name__}: {error}")
    os._exit(0)


class _Worker:
    def __init__(self, link: Link, layers: Collection[str]) -> None:
        self.memory_limit = 0
        self._link = link
        self._layers = layers
        self._task: dict[str, Any] | None = None
        self._file: int | None = None
        self._job: StreamJob | None = None
        self._memory: FrameMemory | None = None
        self._target: Target | None = None
        link.on_message = self._handle

    def run(self) -> None:
        while self._task is None or self._target is None or self._memory is None:
            self._link.serve(wait=True)
        task = self._task
        self.memory_limit = task["memory_limit_bytes"]
        limits.limit_memory(self.memory_limit)
        if task["type"] == "pictures":
            self._enclose()
            layout, cpu_seconds = self._target.layout, task["max_frame_cpu_seconds"]
            prepare_stills(self._link, self._memory, layout, task["pictures"], task["max_pixels"], cpu_seconds)
        else:
            self._job = StreamJob(self._link, task, self._target, self._memory, self._file)
            self._enclose()
            self._job.run()

    def _enclose(self) -> None:
        """From here on nothing can be opened; not a byte of the input has been looked at."""
        sandbox.enter(sandbox.UPLOAD, self._layers)

    def fail(self, kind: str, reason: str) -> None:
        self._link.send(type="failed", kind=kind, reason=reason[:2000])

    def _handle(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "target":
                self._retarget(message)
            case "release" if self._job is not None:
                self._job.release(message["slots"])
            case "video" | "pictures":
                self._task = message
                self._file = self._link.take_fd() if message.get("file") else None

    def _retarget(self, message: dict[str, Any]) -> None:
        layout = Layout(message["width"], message["height"], Resize(message["resize"]), message["fill"])
        self._target = Target(layout, message["generation"])
        memory = None
        if message["slots"]:
            fd = self._link.take_fd()
            memory = self._memory = FrameMemory(fd, message["slots"], message["slot_bytes"], writable=True)
            os.close(fd)
        if self._job is not None:
            self._job.retarget(self._target, memory)
        self._link.send(type="retargeted", generation=self._target.generation)
