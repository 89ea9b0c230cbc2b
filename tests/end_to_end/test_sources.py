"""AnalyzeSource: files and live streams that the server reads by itself, and `videoai analyze` with an address."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import psutil
import pytest
from demo import scene
from harness import NAME, PATIENCE, eventually, serving
from rtsp_server import Plan, RtspServer, encode
from videoai.inference.v1 import inference_pb2 as pb


@contextmanager
def listening(handler):
    """An HTTP server of this process that answers by `handler`; its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


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
def camera(folder):
    """A live HTTP source that breaks off in the middle of every odd connection; its URL."""
    connections = []

    class Camera(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            connections.append(self.path)
            video = (folder / "scene.ts").read_bytes()
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            whole = len(connections) % 2 == 0
            part = video if whole else video[: len(video) // 2]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) + (b"0\r\n\r\n" if whole else b""))
            self.close_connection = True

        def log_message(self, *_):
            pass

    with listening(Camera) as port:
        yield f"http://root:secret@127.0.0.1:{port}/live?token=secret"


@pytest.fixture(scope="module")
def pair(tmp_path_factory, onnx_files, folder):
    arguments = ("--allow-folder", str(folder), "--allow-host", "127.0.0.1", "--log-level", "debug")
    with serving(tmp_path_factory.mktemp("root"), onnx_files[1], *arguments) as pair:
        yield pair


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
        ("http://127.0.0.2/x", grpc.StatusCode.PERMISSION_DENIED),
        ("http://root:secret@127.0.0.1:1/secret", grpc.StatusCode.UNAVAILABLE),
        ("rtsp://root:secret@camera/x", grpc.StatusCode.PERMISSION_DENIED),
    ],
)
def test_what_cannot_be_read_says_why(pair, folder, uri, code):
    with pytest.raises(grpc.RpcError) as raised:
        ask(pair, uri.format(folder=folder, parent=folder.parent))
    assert raised.value.code() is code, raised.value.details()
    assert "secret" not in raised.value.details() + pair.inference_process.log


def test_a_live_source_goes_on_over_a_gap(pair, camera):
    _, *events, summary = ask(pair, camera)
    gaps = [event for event in events if isinstance(event, pb.Gap)]
    frames = [event for event in events if isinstance(event, pb.FrameResult)]
    assert [(gap.attempts, gap.resumed) for gap in gaps] == [(0, False), (1, True)]
    assert gaps[0].began.seconds > 1_700_000_000
    assert [frame.frame_index for frame in frames] == list(range(len(frames)))
    assert len(frames) > 30
    assert {frame.wall_clock_source for frame in frames} == {pb.WALL_CLOCK_SOURCE_RECEIVED}
    assert frames[-1].wall_clock.ToSeconds() >= gaps[0].began.seconds
    assert (summary.gaps, summary.frames_analyzed) == (1, len(frames))
    assert "secret" not in pair.inference_process.log


def test_max_reconnects_ends_it(pair, camera):
    request = pb.AnalyzeSourceRequest(uri=camera, config=pb.AnalyzeConfig(model_name=NAME), max_reconnects=0)
    with pytest.raises(grpc.RpcError) as raised:
        list(pair.inference.AnalyzeSource(request, timeout=PATIENCE))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "max_reconnects" in raised.value.details()
    list(pair.inference.AnalyzeSource(pb.AnalyzeSourceRequest(uri=camera), timeout=PATIENCE))  # an even number of them


def test_the_command_line_reads_addresses(pair, camera, folder):
    def analyze(*arguments):
        command = [sys.executable, "-m", "videoai", "analyze", "--inference", pair.inference_process.address]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE)

    live = analyze(camera, "--json", "-", "--output", "json")
    assert live.returncode == 0, live.stderr
    indices = [json.loads(line)["frame_index"] for line in live.stdout.splitlines()]
    assert indices == list(range(len(indices)))
    assert "source lost: " in live.stderr
    assert "back after " in live.stderr
    assert "secret" not in live.stderr
    file = analyze(f"file://{folder}/scene.mp4", "--output", "json")
    assert json.loads(file.stdout)["frames_analyzed"] == 30
    assert analyze(f"file://{folder}/absent.mp4").returncode == 3
    assert analyze(camera, "--save-video", "x.mp4").returncode == 2
    assert analyze(str(folder / "scene.mp4"), "--give-up", "3").returncode == 2


@pytest.fixture(scope="module")
def endless_camera(folder):
    """A live HTTP source that sends the scene again and again, as fast as it is taken; its URL."""

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            video = (folder / "scene.ts").read_bytes()
            with suppress(OSError):
                while True:
                    self.wfile.write(video)

        def log_message(self, *_):
            pass

    with listening(Camera) as port:
        yield f"http://127.0.0.1:{port}/live"


def test_a_call_that_is_cancelled_frees_its_decoder_its_memory_its_connection_and_its_place(pair, endless_camera):
    server = psutil.Process(pair.inference_process.popen.pid)
    port = int(endless_camera.split(":")[2].split("/")[0])

    def held():
        (nursery,) = [child for child in server.children() if "inference_server.video.nursery" in child.cmdline()]
        connections = [found for found in server.net_connections("tcp") if found.raddr and found.raddr.port == port]
        memory = Path(f"/proc/{server.pid}/maps").read_text().count("videoai-frames")
        state = pair.inference.GetServingState(pb.GetServingStateRequest(), timeout=PATIENCE)
        return len(nursery.children()), len(connections), memory, state.active_streams

    eventually(lambda: held() == (0, 0, 0, 0), "what ran before is over")
    request = pb.AnalyzeSourceRequest(uri=endless_camera, config=pb.AnalyzeConfig(model_name=NAME))
    call = pair.inference.AnalyzeSource(request, timeout=PATIENCE)
    assert [next(call).WhichOneof("result") for _ in range(5)] == ["started"] + ["frame"] * 4
    assert min(held()) >= 1
    call.cancel()
    eventually(lambda: held() == (0, 0, 0, 0), "all is freed")


def test_a_file_leaves_no_descriptor_open(pair, folder):
    server = psutil.Process(pair.inference_process.popen.pid)
    ask(pair, f"file://{folder}/scene.mp4")
    assert [file.path for file in server.open_files() if str(folder) in file.path] == []


@pytest.fixture(scope="module")
def rtsp_camera():
    """A camera over RTSP that breaks off after each twenty pictures; its URL."""
    server, loop = RtspServer(), asyncio.new_event_loop()
    server.plans = [Plan(encode(20), "close", report=1_900_000_000.0)]
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield server.url.replace("//", "//root:secret@")
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(server.stop())
    loop.close()


def test_a_camera_over_rtsp_goes_on_over_a_gap(pair, rtsp_camera):
    started, *events, summary = ask(pair, rtsp_camera, max_frames=30)
    frames = [event for event in events if isinstance(event, pb.FrameResult)]
    gaps = [event for event in events if isinstance(event, pb.Gap)]
    assert (started.container, started.codec, started.width, started.height) == ("rtsp", "h264", 160, 96)
    assert [frame.frame_index for frame in frames] == list(range(30))
    assert gaps[-1].resumed
    assert summary.gaps == 1
    told = [frame for frame in frames if frame.wall_clock_source == pb.WALL_CLOCK_SOURCE_CAMERA]
    assert {frame.wall_clock.ToSeconds() for frame in told} == {1_900_000_000}
    assert "secret" not in pair.inference_process.log
