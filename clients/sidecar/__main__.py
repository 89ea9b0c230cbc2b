"""Send every video and picture of a folder to the inference server, and print what it finds as JSON lines.

    python -m sidecar FOLDER [--inference ADDR] [--model NAME]

One line for each frame: the file, when in the video, which version answered, and its detections. Copy it and change
`report` into whatever is to be done with them. Exit status 1 if a file could not be analysed, 0 otherwise.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
from videoai import InferenceClient, VideoAIError
from videoai.errors import Unavailable
from videoai.inference.v1.inference_pb2 import FrameResult

PICTURES = frozenset({".jpg", ".jpeg", ".png"})
VIDEOS = frozenset({".avi", ".h264", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".ts", ".webm"})


def wait_until_serving(client: InferenceClient, seconds: float) -> None:
    """Return once a model runs, for the server may start after the sidecar. Raises Unavailable after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            status = client.health()
        except Unavailable as error:
            status = error.details
        if status == "SERVING":
            return
        if time.monotonic() >= deadline:
            raise Unavailable(f"{client.address} is not serving after {seconds:g} s: {status}")
        time.sleep(0.5)


def analyse(client: InferenceClient, path: Path, model_name: str) -> Iterator[FrameResult]:
    """Yield the results of one file; those of a video come while it is still being sent."""
    if path.suffix.lower() in PICTURES:
        yield from client.analyze_frames([path.read_bytes()], model_name)
    else:
        with client.analyze_video(path, model_name) as analysis:
            yield from analysis


def report(path: Path, frame: FrameResult) -> dict[str, Any]:
    """Return what is printed of one frame: boxes are in pixels of the picture as displayed."""
    return {
        "file": path.name,
        "frame_index": frame.frame_index,
        "time_seconds": round(frame.time_seconds, 3),
        "model": f"{frame.model_name} v{frame.model_version}",
        "detections": [
            {
                "class": detection.class_name,
                "score": round(detection.score, 3),
                "box": [
                    round(edge, 1)
                    for edge in (detection.box.x_min, detection.box.y_min, detection.box.x_max, detection.box.y_max)
                ],
            }
            for detection in frame.detections
        ],
    }


def run(client: InferenceClient, paths: Iterable[Path], model_name: str) -> bool:
    """Print the results of every file; return whether all could be analysed."""
    complete = True
    for path in paths:
        try:
            for frame in analyse(client, path, model_name):
                click.echo(json.dumps(report(path, frame)))
        except (VideoAIError, OSError) as error:
            click.echo(f"{path.name}: {error}", err=True)
            complete = False
    return complete


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--inference", envvar="VIDEOAI_INFERENCE", default="127.0.0.1:50052", show_default=True, help="Server's address."
)
@click.option("--model", default="", metavar="NAME", help="Model to ask; may be left out where the server has one.")
@click.option("--wait-seconds", default=60.0, show_default=True, help="How long to wait for the server.")
def main(folder: Path, inference: str, model: str, wait_seconds: float) -> None:
    """Analyse the videos and pictures in FOLDER."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES | VIDEOS)
    if not paths:
        raise click.ClickException(f"{folder}: expected videos or pictures, got none")
    try:
        with InferenceClient(inference) as client:
            wait_until_serving(client, wait_seconds)
            complete = run(client, paths, model)
    except (VideoAIError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if not complete:
        sys.exit(1)


if __name__ == "__main__":
    main()
