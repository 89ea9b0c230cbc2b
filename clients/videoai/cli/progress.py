"""The progress bar of an analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType

    from videoai.inference.v1 import inference_pb2


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        seconds = task.finished_time or task.elapsed
        frames = task.fields["frames"]
        return Text(f"{frames} frames, {frames / seconds:.0f}/s" if seconds else f"{frames} frames")


class AnalysisProgress:
    """Shows how far an analysis is on standard error, if that is a terminal: seconds of video done of all."""

    def __init__(self, name: str, start_seconds: float, end_seconds: float | None) -> None:
        self._start = start_seconds
        self._end = end_seconds
        self._frames = 0
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(max_width=20, no_wrap=True)),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            _Rate(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[version]}", markup=False, table_column=Column(no_wrap=True)),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(name, total=None, frames=0, version="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def tell_gap(self, gap: inference_pb2.Gap) -> None:
        """Say on standard error that a live source is away, still away, or back."""
        if gap.resumed:
            text = f"back after {gap.seconds:.1f} s, attempt {gap.attempts}"
        else:
            text = f"attempt {gap.attempts} failed: {gap.reason}" if gap.attempts else f"source lost: {gap.reason}"
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def advance(self, started: inference_pb2.Started, frame: inference_pb2.FrameResult) -> None:
        """Show that `frame` is done."""
        self._frames += 1
        end = min(filter(None, (self._end, started.duration_seconds)), default=0.0)
        self._bar.update(
            self._task,
            total=end - self._start if end > self._start else None,
            completed=max(0.0, frame.time_seconds - self._start),
            frames=self._frames,
            version=f"version {frame.model_version}",
        )
