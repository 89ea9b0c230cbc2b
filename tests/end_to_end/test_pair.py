"""The way through everything: register, activate, analyse, swap."""

import json
import signal
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import grpc
import numpy as np
import onnx
import pytest
from demo import scene
from google.protobuf import json_format, struct_pb2
from harness import NAME, PATIENCE, eventually
from onnx import TensorProto, helper
from videoai.inference.v1 import inference_pb2
from videoai.registry.v1 import registry_pb2


def boxes_of(frame, class_name):
    return [
        [detection.box.x_min, detection.box.y_min, detection.box.x_max, detection.box.y_max]
        for detection in frame.detections
        if detection.class_name == class_name
    ]


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def test_boxes_lie_where_the_shapes_are(serving_v1, video):
    stream = serving_v1.analyze(video)
    frames = list(stream)
    assert [frame.frame_index for frame in frames] == list(range(120))
    assert (stream.started.codec, stream.started.width, stream.started.height) == ("h264", 640, 360)
    assert stream.summary.frames_per_version == {1: 120}
    assert (stream.summary.frames_decoded, stream.summary.frames_analyzed) == (120, 120)
    assert not stream.summary.truncated
    served = serving_v1.serving()
    assert {frame.model_sha256 for frame in frames} == {served.running_sha256}
    overlaps = []
    for frame in frames:
        truth = [box for name, box in scene.ground_truth(frame.frame_index, size=(640, 360)) if name == "red circle"]
        found = boxes_of(frame, "red circle")
        assert len(found) == len(truth) == len(frame.detections)
        overlaps += [max(overlap(box, other) for other in found) for box in truth]
    assert np.mean(overlaps) > 0.85


def test_results_flow_while_the_upload_still_runs(serving_v1, video):
    whole = video.read_bytes()
    answered = threading.Event()

    def upload():
        yield whole[: len(whole) // 2]
        assert answered.wait(PATIENCE), "a frame is answered before the second half is sent"
        yield whole[len(whole) // 2 :]

    indices = []
    for frame in serving_v1.analyze(upload()):
        answered.set()
        indices.append(frame.frame_index)
    assert indices == list(range(120))


def test_frames_that_may_come_together_are_the_same_frames(serving_v1, video):
    expected = [(frame.frame_index, list(frame.detections)) for frame in serving_v1.analyze(video)]
    stream = serving_v1.analyze(video, max_frames_per_response=5)
    sizes, frames = [], []
    for response in stream.call:
        match response.WhichOneof("result"):
            case "frame":
                sizes.append(1)
                frames.append(response.frame)
            case "frames":
                sizes.append(len(response.frames.frames))
                frames += response.frames.frames
    assert [(frame.frame_index, list(frame.detections)) for frame in frames] == expected
    assert set(sizes) <= {1, 2, 3, 4, 5}


def test_activation_while_ten_streams_run(serving_v1, video, onnx_files):
    """No frame fails, none is missing or repeated, and no stream goes back to an older version."""
    whole = video.read_bytes()
    half = len(whole) // 2
    progress = [0] * 10
    swapped = []

    def upload():
        yield whole[:half]
        eventually(lambda: swapped, "version 2 runs")
        yield whole[half:]

    def one_stream(number):
        frames = []
        for frame in serving_v1.analyze(upload()):
            frames.append(frame)
            progress[number] += 1
        return frames

    with ThreadPoolExecutor(10) as streams:
        results = [streams.submit(one_stream, number) for number in range(10)]
        eventually(lambda: all(progress), "every stream has begun")
        serving_v1.activate(2)
        swapped.append(serving_v1.wait_until_running(2))
        answers = [result.result() for result in results]

    for frames in answers:
        assert [frame.frame_index for frame in frames] == list(range(120))
        versions = [frame.model_version for frame in frames]
        assert all(before <= after for before, after in pairwise(versions))
        assert set(versions) == {1, 2}
    served = serving_v1.serving()
    assert (served.frames_answered, served.frames_failed, served.swaps) == (1200, 0, 1)


def test_the_new_version_finds_what_the_old_one_did_not_know(serving_v1, video):
    serving_v1.activate(2)
    serving_v1.wait_until_running(2)
    names = {detection.class_name for frame in serving_v1.analyze(video) for detection in frame.detections}
    assert names == {"red circle", "green square", "blue diamond"}


def test_two_models_are_served_side_by_side(pair, onnx_files, video):
    pair.start_registry()
    for name, version in (("circles", 1), ("shapes", 2)):
        pair.register(onnx_files[version], version, name)
        pair.activate(version, name)
    pair.start_inference("--model", "circles", "--model", "shapes")
    for name, version in (("circles", 1), ("shapes", 2)):
        pair.wait_until_running(version, name)
        frames = list(pair.analyze(video, model_name=name, max_frames=5))
        assert [(frame.model_name, frame.model_version) for frame in frames] == [(name, version)] * 5
    with pytest.raises(grpc.RpcError) as raised:
        list(pair.analyze(video, model_name=""))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as raised:
        list(pair.analyze(video, model_name="squares"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert "circles, shapes" in raised.value.details()


def test_pictures_are_answered_like_the_frames_they_are(serving_v1):
    size = (640, 360)
    pictures = [
        inference_pb2.Picture(
            raw=inference_pb2.RawPicture(width=640, height=360, rgb=scene.render(index, size).tobytes())
        )
        for index in (0, 40)
    ]
    response = serving_v1.inference.AnalyzeFrames(
        inference_pb2.AnalyzeFramesRequest(model_name=NAME, frames=pictures), timeout=60
    )
    for result, index in zip(response.results, (0, 40), strict=True):
        truth = [box for name, box in scene.ground_truth(index, size=size) if name == "red circle"]
        found = boxes_of(result, "red circle")
        assert len(found) == len(truth)
        assert all(max(overlap(box, other) for other in found) > 0.8 for box in truth)


def test_thresholds_classes_and_tensors_of_the_request_count(serving_v1, video):
    serving_v1.activate(2)
    serving_v1.wait_until_running(2)
    (frame,) = serving_v1.analyze(video, max_frames=1, class_names=["green square"], include_tensors=True)
    assert {detection.class_name for detection in frame.detections} == {"green square"}
    (tensor,) = frame.tensors
    assert (tensor.name, tensor.datatype, tensor.shape[0]) == ("output0", "FP32", 7)
    values = np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)
    assert values[4:].max() == pytest.approx(
        max(detection.score for detection in next(iter(serving_v1.analyze(video, max_frames=1))).detections), abs=1e-5
    )
    (frame,) = serving_v1.analyze(video, max_frames=1, max_detections=1)
    assert len(frame.detections) == 1
    (frame,) = serving_v1.analyze(video, max_frames=1, confidence_threshold=1.0)
    assert not frame.detections


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"stride": 0}, "stride"),
        ({"frames_per_second": -1.0}, "frames_per_second"),
        ({"start_seconds": -1.0}, "start_seconds"),
        ({"start_seconds": 2.0, "end_seconds": 1.0}, "end_seconds"),
        ({"confidence_threshold": 1.5}, "confidence_threshold"),
        ({"iou_threshold": float("nan")}, "iou_threshold"),
        ({"max_detections": 0}, "max_detections"),
        ({"class_names": ["unicorn"]}, "class_names"),
        ({"delivery": 17}, "delivery"),
    ],
)
def test_a_malformed_field_is_named(serving_v1_shared, video, config, field):
    with pytest.raises(grpc.RpcError) as raised:
        list(serving_v1_shared.analyze(video, **config))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details().startswith(f"{field}: expected ")


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 1000, b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"])
def test_what_is_not_a_video_is_refused(serving_v1_shared, content):
    with pytest.raises(grpc.RpcError) as raised:
        list(serving_v1_shared.analyze([content]))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_messages_out_of_order_are_refused(serving_v1_shared, video):
    stub = serving_v1_shared.inference
    config = inference_pb2.AnalyzeVideoRequest(config=inference_pb2.AnalyzeConfig(model_name=NAME))
    chunk = inference_pb2.AnalyzeVideoRequest(chunk=video.read_bytes()[:1000])
    for requests, field in (([chunk], "config"), ([], "config"), ([config, chunk, config], "chunk")):
        with pytest.raises(grpc.RpcError) as raised:
            list(stub.AnalyzeVideo(iter(requests), timeout=60))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert raised.value.details().startswith(f"{field}: expected")


def test_a_caller_that_leaves_takes_nothing_down(serving_v1, video):
    stream = serving_v1.analyze(video)
    next(iter(stream))
    stream.call.cancel()
    eventually(
        lambda: not serving_v1.inference.GetServingState(inference_pb2.GetServingStateRequest()).active_streams,
        "the stream is gone",
    )
    assert len(list(serving_v1.analyze(video))) == 120


def test_a_hand_edit_of_the_file_swaps_too(serving_v1):
    path = serving_v1.root / "models" / "registry.json"
    document = json.loads(path.read_text())
    for entry in document["models"]:
        entry["status"] = "production" if entry["version"] == 2 else "staging"
    path.write_text(json.dumps(document, indent=2))
    serving_v1.wait_until_running(2)


def test_the_rollout_shows_the_replica(serving_v1):
    serving_v1.activate(2)

    def applied():
        (replica,) = serving_v1.replicas()
        return replica.state == registry_pb2.MODEL_STATE_APPLIED and replica.running_version == 2 and replica

    replica = eventually(applied, "the replica has applied version 2")
    assert (replica.seen_version, replica.error) == (2, "")
    state = serving_v1.inference.GetServingState(inference_pb2.GetServingStateRequest())
    assert replica.instance_id == state.instance_id
    assert state.registry_connected


def test_the_device_in_use_is_visible(pair, onnx_files):
    pair.start_registry()
    pair.register(onnx_files[1], 1)
    pair.activate(1)
    process = pair.start_inference("--log-format", "json", "--metrics", "127.0.0.1:0")
    served = pair.wait_until_running(1)
    assert (served.device, served.provider, served.family) == ("cpu", "CPUExecutionProvider", "yolo-detect")
    assert list(served.class_names) == ["red circle"]
    eventually(lambda: "CPUExecutionProvider" in process.log, "the provider is in the log")
    entries = [json.loads(line) for line in process.log.splitlines()]
    address = next(entry["metrics"] for entry in entries if entry["event"] == "started")
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as response:
        metrics = response.read().decode()
    labels = 'device="cpu",model_name="shapes",provider="CPUExecutionProvider",version="1"'
    assert f"videoai_model_running{{{labels}}} 1.0" in metrics


def test_the_sandbox_of_decoders_is_visible(serving_v1_shared, video):
    assert len(list(serving_v1_shared.analyze(video))) == 120  # so there has been a decoder
    state = serving_v1_shared.inference.GetServingState(inference_pb2.GetServingStateRequest())
    assert set(state.decoder_sandbox) <= {"capabilities", "landlock", "seccomp"}
    if sys.platform == "linux":
        assert "capabilities" in state.decoder_sandbox


def test_an_unknown_variable_stops_the_start(pair, monkeypatch):
    monkeypatch.setenv("VIDEOAI_INFERENCE_DEVCE", "cpu")
    process = pair.start_unchecked("inference_server", "--root", str(pair.root))
    assert process.wait() == 2
    assert "VIDEOAI_INFERENCE_DEVICE" in process.log


def test_sigterm_lets_running_streams_end(serving_v1, video):
    stream = serving_v1.analyze(video)
    frames = [next(iter(stream))]
    serving_v1.inference_process.send(signal.SIGTERM)
    frames += list(stream)
    assert [frame.frame_index for frame in frames] == list(range(120))
    assert stream.summary.frames_analyzed == 120
    assert serving_v1.inference_process.wait() == 0


def test_a_stream_that_never_ends_is_ended_in_time(serving_v1, onnx_files, video):
    process = serving_v1.start_inference("--grace-seconds", "2")
    serving_v1.wait_until_running(1)
    whole = video.read_bytes()
    over = []

    def upload():
        yield whole[: len(whole) // 2]
        eventually(lambda: over, "the stream is ended")

    stream = iter(serving_v1.analyze(upload()))
    next(stream)
    process.send(signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as raised:
        list(stream)
    over.append(True)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert raised.value.details() == "the server is shutting down"
    assert process.wait() == 0


def test_a_model_that_is_no_detector_gives_its_tensors_to_who_asks(pair, tmp_path):
    """Declared by its entry; anything else than asking for tensors is refused, as is the file without the entry."""
    size = 32
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0)],
        "means",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("means", TensorProto.FLOAT, [1, 3])],
    )
    path = tmp_path / "means.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    pair.start_registry()
    attributes = json_format.ParseDict({"videoai": {"family": "tensors"}}, struct_pb2.Struct())
    pair.register(path, 1, metadata=registry_pb2.ModelMetadata(attributes=attributes))
    pair.activate(1)
    pair.start_inference()
    assert pair.wait_until_running(1).family == "tensors"
    picture = np.zeros((size, size, 3), np.uint8)
    picture[..., 1] = 255
    with pytest.raises(grpc.RpcError) as raised:
        pair.answer(picture)
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "include_tensors" in raised.value.details()
    (tensor,) = pair.answer(picture, include_tensors=True).tensors
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("means", "FP32", [3])
    assert np.frombuffer(tensor.data, "<f4").tolist() == pytest.approx([0, 1, 0])
    pair.register(path, 2)
    pair.activate(2)
    eventually(lambda: pair.serving().last_error, "the file alone does not say what it is")
    assert "metadata.attributes.videoai.family" in pair.serving().last_error
