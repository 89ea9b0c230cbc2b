"""Whatever strangers send is refused or bounded, with its status; no other file or host is asked for; others go on."""

import socket

import grpc
import pytest
from harness import serving
from hostile_files import HOSTILE, LIMITED, LIMITS


@pytest.fixture(scope="module")
def bounded(tmp_path_factory, onnx_files):
    """A pair whose inference server has every limit set."""
    limits = (f"--{name}={value}" for name, value in LIMITS.items())
    with serving(tmp_path_factory.mktemp("bounded"), onnx_files[1], *limits) as pair:
        yield pair


@pytest.fixture(scope="module")
def bait():
    """A listening socket that nobody may connect to, and its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        yield listening, f"http://127.0.0.1:{listening.getsockname()[1]}/bait.ts"


def outcome(stream):
    """Frames answered, status and words."""
    frames = 0
    try:
        for _ in stream:
            frames += 1
    except grpc.RpcError as error:
        return frames, error.code(), error.details()
    return frames, None, ""


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_or_bounded(bounded, bait, name):
    hostile, (listening, url) = HOSTILE[name], bait
    frames, code, details = outcome(bounded.analyze(hostile.content(url)))
    assert (code, hostile.reason in details) == (hostile.code, True), details
    assert frames == hostile.frames or (frames <= LIMITS["max-video-frames"] and code is LIMITED)
    with pytest.raises(BlockingIOError):  # nobody has connected
        listening.accept()


def test_the_others_go_on(bounded, video):
    assert len(list(bounded.analyze(video))) == 120
    assert "Traceback" not in bounded.inference_process.log
