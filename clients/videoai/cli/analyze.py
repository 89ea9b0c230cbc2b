"""videoai analyze: a video in, boxes out."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit

import click
from click.core import ParameterSource
from rich.console import Console
from rich.text import Text

from videoai.analysis import SourceOptions, VideoOptions
from videoai.cli import output
from videoai.cli.options import COUNT, Number, Settings, global_options, pass_settings
from videoai.cli.progress import AnalysisProgress
from videoai.inference.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from videoai import InferenceClient

SHARE = Number(0, 1)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
POSITIVE = Number(min=0, min_open=True)
SECONDS = Number(min=0)
PTS = click.IntRange(-(2**63), 2**63 - 1)
# How the options are called in AnalyzeConfig.
_FIELDS = frozenset(SourceOptions.__optional_keys__)
_PATIENCE = _FIELDS - VideoOptions.__optional_keys__


class VideoOrSource(click.Path):
    """A file of this machine, or the address of a source for the server to read."""

    name = "file or address"

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and re.match(r"(rtsps?|https?)://|file:/", value, re.IGNORECASE):
            return value
        return super().convert(value, param, ctx)


@click.command()
@click.argument("video", type=VideoOrSource())
@click.option("--model", "model_name", default="", metavar="NAME", help="Model to run; needed if several are served.")
@click.option("--json", "json_path", metavar="FILE", help='Write a line of JSON for each frame; "-": to stdout.')
@click.option("--save-video", type=NEW_FILE, help="Write an MP4 with what was found drawn in.")
@click.option("--stride", type=COUNT, help="Analyse every n-th frame only.")
@click.option("--fps", "frames_per_second", type=POSITIVE, help="At most so many frames/s.")
@click.option("--start", "start_seconds", type=SECONDS, help="Leave out what comes before, in seconds.")
@click.option("--end", "end_seconds", type=SECONDS, help="Leave out what comes from there on, in seconds.")
@click.option("--max-frames", type=COUNT, help="Stop after so many frames.")
@click.option(
    "--resume-after-pts", type=PTS, metavar="PTS", help="Go on after the frame with this pts, the last one analysed."
)
@click.option("--confidence", "confidence_threshold", type=SHARE, help="Lowest score reported.")
@click.option("--iou", "iou_threshold", type=SHARE, help="Suppress boxes of a class that overlap a better one by more.")
@click.option("--max-detections", type=click.IntRange(1, 10_000), help="At most so many boxes a frame.")
@click.option("--class", "class_names", multiple=True, metavar="NAME", help="Report only this class; repeatable.")
@click.option("--latest", is_flag=True, help="Drop frames that would have to wait, instead of falling behind a source.")
@click.option("--max-reconnects", type=click.IntRange(min=0), help="Attempts to connect to a lost source again.")
@click.option("--give-up", "give_up_seconds", type=SECONDS, help="Longest gap of a source to wait for, in seconds.")
@global_options
@pass_settings
@click.pass_context
def analyze(
    context: click.Context,
    settings: Settings,
    /,
    video: Path | str,
    model_name: str,
    json_path: str | None,
    save_video: Path | None,
    *,
    latest: bool,
    **_: Any,
) -> None:
    """Find objects in VIDEO, a file of any format that the server allows.

    Results come while the file is still being sent. An address (http://, https://, or file:/// for a file on the
    server's machine) is read by the server itself, where its operator allows that; gaps of a live source are told on
    standard error, and Ctrl-C ends it. With --output json, standard output has the totals as one JSON
    value, or with --json - the frames, one a line, and nothing else.
    """
    config = _config(context)
    if latest:
        config["delivery"] = inference_pb2.DELIVERY_LATEST
    _check_kind(context, video, save_video)
    if save_video and any(importlib.util.find_spec(name) is None for name in ("av", "numpy", "PIL")):
        raise click.ClickException("--save-video needs more packages: pip install 'videoai[video]'")
    with settings.inference_client() as client, _lines(json_path) as lines:
        results, summary = _run(client, video, model_name, config, lines, keep=save_video is not None)
    if save_video and isinstance(video, Path):
        _save(video, results, save_video)
    if settings.json:
        if json_path != "-":
            output.print_json(summary)
    else:
        _report(summary, save_video, json_path)


def _check_kind(context: click.Context, video: Path | str, save_video: Path | None) -> None:
    if isinstance(video, str) and save_video:
        raise click.UsageError("--save-video needs a file of this machine: it is read again to draw into it", context)
    patience = sorted(_PATIENCE & {name for name, value in context.params.items() if value is not None})
    if isinstance(video, Path) and patience:
        flags = {"max_reconnects": "--max-reconnects", "give_up_seconds": "--give-up"}
        raise click.UsageError(f"{flags[patience[0]]} is for sources that the server reads, not for a file", context)


def _config(context: click.Context) -> dict[str, Any]:
    """Return what was asked for; the rest is left to the server."""
    given = {
        name: value
        for name, value in context.params.items()
        if name in _FIELDS and context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    if {"stride", "frames_per_second"} <= given.keys():
        raise click.UsageError("--stride and --fps exclude each other", context)
    if given.get("end_seconds", float("inf")) <= given.get("start_seconds", 0.0):
        raise click.UsageError("--end must come after --start", context)
    return given


def _run(
    client: InferenceClient,
    video: Path | str,
    model_name: str,
    config: dict[str, Any],
    lines: TextIO | None,
    *,
    keep: bool,
) -> tuple[list[inference_pb2.FrameResult], inference_pb2.Summary]:
    results = []
    progress = AnalysisProgress(_name(video), config.get("start_seconds", 0.0), config.get("end_seconds"))
    if isinstance(video, Path):
        running = client.analyze_video(video, model_name, **config)
    else:
        running = client.analyze_source(video, model_name, on_gap=progress.tell_gap, **config)
    with progress, running as analysis:
        for frame in analysis:
            progress.advance(analysis.started, frame)
            if lines:
                lines.write(output.one_line(frame))
                lines.flush()
            if keep:
                results.append(frame)
        return results, analysis.summary


def _name(video: Path | str) -> str:
    """What to call it on the screen: of an address no more than its host, for the rest may be secret."""
    return video.name if isinstance(video, Path) else urlsplit(video).hostname or video.rpartition("/")[2]


def _save(video: Path, results: list[inference_pb2.FrameResult], destination: Path) -> None:
    from videoai.annotating import save_video

    try:
        with Console(stderr=True).status(Text(f"drawing into {destination.name}")):
            save_video(video, results, destination)
    except ValueError as error:
        raise click.ClickException(f"--save-video: {error}") from None


@contextlib.contextmanager
def _lines(path: str | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
    elif path == "-":
        yield sys.stdout
    else:
        with Path(path).open("w", encoding="utf-8") as file:
            yield file


def _report(summary: inference_pb2.Summary, save_video: Path | None, json_path: str | None) -> None:
    """Print the totals; to standard error where the results went to standard output."""
    versions = ", ".join(
        f"{count} by version {version}" for version, count in sorted(summary.frames_per_version.items())
    )
    pairs: list[tuple[str, object]] = [
        ("frames decoded", summary.frames_decoded),
        ("frames analysed", f"{summary.frames_analyzed} ({versions})" if versions else summary.frames_analyzed),
    ]
    if summary.frames_dropped:
        pairs.append(("frames dropped", summary.frames_dropped))
    if summary.gaps:
        pairs.append(("gaps", f"{summary.gaps}, {summary.gap_seconds:.1f} s in all"))
    if summary.corrupt_packets:
        pairs.append(("corrupt packets", summary.corrupt_packets))
    if summary.truncated:
        pairs.append(("truncated", "yes: the video ends in the middle of a frame"))
    if save_video:
        pairs.append(("video", save_video))
    if json_path and json_path != "-":
        pairs.append(("results", json_path))
    output.print_pairs(pairs, to_stderr=json_path == "-")
