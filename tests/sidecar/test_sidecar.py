"""The example sidecar as it is run, against a server that answers what the test tells it to."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from videoai.inference.v1 import inference_pb2, inference_pb2_grpc


class Inference(inference_pb2_grpc.InferenceServiceServicer):
    """Finds one cat in everything; refuses videos that begin with "bad"."""

    def AnalyzeVideo(self, requests, context):  # noqa: N802
        config, *chunks = requests
        data = b"".join(request.chunk for request in chunks)
        if data.startswith(b"bad"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "chunk: expected a video")
        for index in range(len(data)):
            yield inference_pb2.AnalyzeVideoResponse(frame=self.frame(index, config.config.model_name))
        yield inference_pb2.AnalyzeVideoResponse(summary=inference_pb2.Summary())

    def AnalyzeFrames(self, request, context):  # noqa: N802
        results = [self.frame(index, request.model_name) for index in range(len(request.frames))]
        return inference_pb2.AnalyzeFramesResponse(results=results)

    def frame(self, index, model_name):
        box = inference_pb2.BoundingBox(x_min=1, y_min=2, x_max=3.25, y_max=4)
        cat = inference_pb2.Detection(class_name="cat", score=0.5, box=box)
        return inference_pb2.FrameResult(
            frame_index=index, time_seconds=index / 10, model_name=model_name, model_version=7, detections=[cat]
        )


@pytest.fixture
def server(tmp_path):
    """Yield the address of the server and its health."""
    health = HealthServicer()
    health.set("", health_pb2.HealthCheckResponse.SERVING)
    server = grpc.server(ThreadPoolExecutor(4))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(Inference(), server)
    address = f"unix:{tmp_path}/socket"
    server.add_insecure_port(address)
    server.start()
    yield address, health
    server.stop(None).wait()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


def sidecar(folder, address, *arguments):
    command = [sys.executable, "-m", "sidecar", folder, "--inference", address, "--model", "cats", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_prints_a_line_for_each_frame(server, folder):
    (folder / "a.mp4").write_bytes(b"123")
    (folder / "b.JPG").write_bytes(b"1")
    (folder / "notes.txt").write_text("not sent")
    outcome = sidecar(folder, server[0])
    assert (outcome.returncode, outcome.stderr) == (0, "")
    lines = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [(line["file"], line["frame_index"]) for line in lines] == [
        ("a.mp4", 0),
        ("a.mp4", 1),
        ("a.mp4", 2),
        ("b.JPG", 0),
    ]
    assert lines[1] == {
        "file": "a.mp4",
        "frame_index": 1,
        "time_seconds": 0.1,
        "model": "cats v7",
        "detections": [{"class": "cat", "score": 0.5, "box": [1.0, 2.0, 3.2, 4.0]}],
    }


def test_goes_on_after_a_file_that_fails_and_says_so(server, folder):
    (folder / "a.mp4").write_bytes(b"bad")
    (folder / "b.mp4").write_bytes(b"1")
    outcome = sidecar(folder, server[0])
    assert (outcome.returncode, outcome.stderr) == (1, "a.mp4: chunk: expected a video\n")
    assert json.loads(outcome.stdout)["file"] == "b.mp4"


def test_says_that_there_is_nothing_to_send(server, folder):
    outcome = sidecar(folder, server[0])
    assert outcome.returncode == 1
    assert "expected videos or pictures, got none" in outcome.stderr


@pytest.mark.parametrize("away", [True, False], ids=["away", "without a model"])
def test_gives_up_on_a_server_that_does_not_serve(server, folder, tmp_path, away):
    address, health = server
    health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    (folder / "a.mp4").write_bytes(b"1")
    outcome = sidecar(folder, f"unix:{tmp_path}/nothing" if away else address, "--wait-seconds", "0")
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert "is not serving after 0 s" in outcome.stderr
