"""A model with weights in other files, from registration to the frames that it answers."""

import shutil

import grpc
import onnx
import pytest
from harness import NAME
from videoai.registry.v1 import registry_pb2


def register_apart(pair, source, version):
    folder = pair.root / "models" / NAME / f"v{version}"
    folder.mkdir(parents=True)
    onnx.save(
        onnx.load(source),
        folder / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    path = f"models/{NAME}/v{version}/model.onnx"
    request = registry_pb2.RegisterModelRequest(model_name=NAME, version=version, path=path)
    return pair.registry.RegisterModel(request).model


def test_it_is_activated_and_answers(serving_v1, onnx_files, video):
    pair = serving_v1
    model = register_apart(pair, onnx_files[2], 3)
    assert list(model.weights_files) == ["weights.bin"]
    pair.activate(3)
    served = pair.wait_until_running(3)
    assert served.running_sha256 == model.sha256
    by_three = [list(frame.detections) for frame in pair.analyze(video, max_frames=20)]
    pair.activate(2)
    pair.wait_until_running(2)
    by_two = [list(frame.detections) for frame in pair.analyze(video, max_frames=20)]
    assert by_three == by_two
    assert any(by_two)


def test_changed_weights_are_not_activated(serving_v1, onnx_files):
    register_apart(serving_v1, onnx_files[2], 3)
    folder = serving_v1.root / "models" / NAME / "v3"
    shutil.copy(folder / "model.onnx", folder / "weights.bin")
    with pytest.raises(grpc.RpcError) as raised:
        serving_v1.activate(3)
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert serving_v1.serving().running_version == 1
