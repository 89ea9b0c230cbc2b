"""Whatever is put into production, the version before goes on answering, and a person reads why."""

import json
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import grpc
from demo import scene
from harness import NAME, PATIENCE, chunks_of, eventually
from videoai.registry.v1 import registry_pb2
from wrong_files import WRONG


def write_registry(pair, good):
    """Entries by hand, as the registry would not register most of these: 1 and the last are sound, the others wrong."""
    contents = [good.read_bytes(), *(wrong.content for wrong in WRONG.values()), good.read_bytes()]
    entries = []
    for version, (content, said) in enumerate(
        zip(contents, [{}, *(wrong.entry for wrong in WRONG.values()), {}], strict=True), 1
    ):
        path = pair.root / "models" / NAME / f"v{version}" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        entry = {"model_name": NAME, "version": version, "path": path.relative_to(pair.root).as_posix()}
        entries.append({**entry, "status": "production" if version == 1 else "staging", **said})
    (pair.root / "models" / "registry.json").write_text(json.dumps({"models": entries}))
    return len(entries)


def activation_error(pair, version):
    try:
        pair.activate(version)
    except grpc.RpcError as error:
        return error
    return None


def put_into_production(pair, version):
    """By a call; by hand, which nobody checks, where the registry sees by itself what is wrong."""
    refused = activation_error(pair, version)
    if refused is None:
        return
    assert refused.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert f"version {version} of model '{NAME}' cannot be activated: path: expected" in refused.details()
    file = pair.root / "models" / "registry.json"
    document = json.loads(file.read_text())
    for entry in document["models"]:
        entry["status"] = "production" if entry["version"] == version else "staging"
    edited = file.with_suffix(".edited")
    edited.write_text(json.dumps(document))
    edited.replace(file)


def refusal(pair, version):
    def refused():
        (replica,) = pair.replicas()
        return replica.seen_version == version and replica.state == registry_pb2.MODEL_STATE_REJECTED and replica

    return eventually(refused, f"version {version} is rejected")


def test_none_of_them_stops_the_version_before(pair, onnx_files, video):
    assert len(WRONG) >= 20
    last = write_registry(pair, onnx_files[1])
    pair.start_registry()
    pair.start_inference()
    pair.wait_until_running(1)
    chunks = list(chunks_of(video, -(-video.stat().st_size // last)))
    queue = SimpleQueue()
    queue.put(chunks.pop(0))
    stream = pair.analyze(iter(lambda: queue.get(timeout=PATIENCE), None))
    picture = scene.render(0, (640, 360))
    with ThreadPoolExecutor(1) as reader:
        frames = reader.submit(lambda: list(stream))
        for version, (what, wrong) in enumerate(WRONG.items(), 2):
            put_into_production(pair, version)
            replica = refusal(pair, version)
            assert wrong.reason in replica.error, what
            assert len(replica.error.splitlines()) == 1
            assert replica.running_version == 1
            assert pair.answer(picture).model_version == 1
            if chunks:
                queue.put(chunks.pop(0))
        pair.activate(last)
        pair.wait_until_running(last)
        for chunk in (*chunks, None):
            queue.put(chunk)
        frames = frames.result()
    assert [frame.frame_index for frame in frames] == list(range(120))
    assert {frame.model_version for frame in frames} <= {1, last}
    assert all(frame.detections for frame in frames)
    served = pair.serving()
    assert (served.frames_failed, served.swaps, served.last_error) == (0, 1, "")
