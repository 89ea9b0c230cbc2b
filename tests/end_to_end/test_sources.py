"""AnalyzeSource: files that the server reads by itself."""

import os

import grpc
import psutil
import pytest
from demo import scene
from harness import NAME, PATIENCE, Pair
from videoai.inference.v1 import inference_pb2 as pb


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An allowed folder with the same scene in several containers, and a file beside it."""
    folder = tmp_path_factory.mktemp("sources") / "allowed"
    folder.mkdir()
    for name in ("scene.mp4", "scene.mkv", "scene.ts"):
        scene.encode(folder / name, frames=30, fps=30, size=(320, 180))
    (folder.parent / "beside.mp4").write_bytes((folder / "scene.mp4").read_bytes())
    (folder / "broken.mp4").write_bytes(b"no video")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory, onnx_files, folder):
    root = tmp_path_factory.mktemp("root")
    (root / "models").mkdir()
    pair = Pair(root)
    try:
        pair.start_registry()
        pair.register(onnx_files[1], 1)
        pair.activate(1)
        pair.start_inference("--allow-folder", str(folder))
        pair.wait_until_running(1)
        yield pair
    finally:
        pair.close()


def ask(pair, uri, **config):
    request = pb.AnalyzeSourceRequest(uri=uri, config=pb.AnalyzeConfig(model_name=NAME, **config))
    return [getattr(r, r.WhichOneof("result")) for r in pair.inference.AnalyzeSource(request, timeout=PATIENCE)]


def told(frames):
    """Frames without what differs from run to run."""
    for frame in frames:
        frame.ClearField("timings")
    return frames


@pytest.mark.parametrize("name", ["scene.mp4", "scene.mkv", "scene.ts"])
def test_a_file_is_answered_like_its_upload(pair, folder, name):
    started, *frames, summary = ask(pair, f"file://{folder}/{name}")
    upload = pair.analyze(folder / name)
    assert told(frames) == told(list(upload))
    started.duration_seconds = upload.started.duration_seconds  # the end of a file may tell what no upload does
    assert (started, summary) == (upload.started, upload.summary)
    assert len(frames) == 30
    assert not frames[0].HasField("wall_clock")


def test_sampling_and_limits_apply(pair, folder):
    frames = ask(pair, f"file://{folder}/scene.mp4", stride=10, max_frames=2)[1:-1]
    assert [frame.frame_index for frame in frames] == [0, 10]


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("file://{folder}/absent.mp4", grpc.StatusCode.NOT_FOUND),
        ("file://{folder}/pipe", grpc.StatusCode.FAILED_PRECONDITION),
        ("file://{folder}", grpc.StatusCode.FAILED_PRECONDITION),
        ("file://{folder}/broken.mp4", grpc.StatusCode.INVALID_ARGUMENT),
        ("file://{folder}/../beside.mp4", grpc.StatusCode.INVALID_ARGUMENT),
        ("scene.mp4", grpc.StatusCode.INVALID_ARGUMENT),
        ("file://{parent}/beside.mp4", grpc.StatusCode.PERMISSION_DENIED),
        ("file:///proc/self/environ", grpc.StatusCode.PERMISSION_DENIED),
        ("http://127.0.0.1:1/x", grpc.StatusCode.PERMISSION_DENIED),
        ("rtsp://root:secret@camera/x", grpc.StatusCode.PERMISSION_DENIED),
    ],
)
def test_what_cannot_be_read_says_why(pair, folder, uri, code):
    with pytest.raises(grpc.RpcError) as raised:
        ask(pair, uri.format(folder=folder, parent=folder.parent))
    assert raised.value.code() is code, raised.value.details()
    assert "secret" not in raised.value.details() + pair.inference_process.log


def test_a_file_leaves_no_descriptor_open(pair, folder):
    server = psutil.Process(pair.inference_process.popen.pid)
    ask(pair, f"file://{folder}/scene.mp4")
    assert [file.path for file in server.open_files() if str(folder) in file.path] == []
