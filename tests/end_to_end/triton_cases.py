"""What tests/end_to_end/test_tritonclient.py has tritonclient do, in a process that imports nothing of ours.

python triton_cases.py ADDRESS CASE [ARGUMENT...]; prints what it saw as JSON.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException, shared_memory

SIZE = 448


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def tensor(name: str, array: np.ndarray, datatype: str) -> Any:
    found = triton.InferInput(name, array.shape, datatype)
    found.set_data_from_numpy(array)
    return found


def code_of(ask: Any) -> str:
    try:
        ask()
    except InferenceServerException as error:
        return str(error.status())
    return "OK"


def describe(address: str) -> Any:
    client = triton.InferenceServerClient(address)
    config = client.get_model_config("shapes", as_json=True)["config"]
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "models": [client.is_model_ready(*which) for which in (("shapes",), ("shapes", "2"), ("shapes", "9"), ("no",))],
        "server": client.get_server_metadata(as_json=True)["name"],
        "inputs": client.get_model_metadata("shapes", as_json=True)["inputs"],
        "config": {"max_batch_size": config["max_batch_size"], "names": [one["name"] for one in config["input"]]},
        "frames": config["parameters"]["frames_input"]["string_value"],
        "ultralytics": config["parameters"]["metadata"]["string_value"],
        "index": client.get_model_repository_index(as_json=True)["models"],
        "trace": client.get_trace_settings(as_json=True)["settings"]["trace_level"],
        "log": sorted(client.get_log_settings(as_json=True)["settings"]),
        "unknown": code_of(lambda: client.get_model_metadata("no")),
        "cuda": code_of(lambda: client.get_cuda_shared_memory_status()),
    }


def infer(address: str) -> Any:
    client = triton.InferenceServerClient(address)
    frames = pictures(2)
    images = np.ascontiguousarray(frames.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
    wanted = [triton.InferRequestedOutput("output0")]
    quick = client.infer("shapes", [tensor("frames", frames, "UINT8")], request_id="7", priority=1, timeout=60_000_000)
    exact = client.infer("shapes", [tensor("images", images, "FP32")], outputs=wanted, model_version="2")
    later: queue.Queue[Any] = queue.Queue()
    client.async_infer("shapes", [tensor("frames", frames, "UINT8")], lambda result, error: later.put((result, error)))
    result, error = later.get(timeout=60)
    wrong = triton.InferRequestedOutput("output9")
    counted = client.get_inference_statistics("shapes", as_json=True)["model_stats"][0]
    return {
        "id": quick.get_response().id,
        "version": quick.get_response().model_version,
        "shape": quick.as_numpy("output0").shape,
        "off": float(np.abs(quick.as_numpy("output0") - exact.as_numpy("output0")).max()),
        "same": error is None and np.array_equal(result.as_numpy("output0"), quick.as_numpy("output0")),
        "wrong": code_of(lambda: client.infer("shapes", [tensor("images", images, "FP32")], outputs=[wrong])),
        "counted": counted["inference_count"],
    }


def stream(address: str) -> Any:
    client = triton.InferenceServerClient(address)
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    given = tensor("frames", pictures(1), "UINT8")
    for index in range(6):
        client.async_stream_infer("no" if index == 3 else "shapes", [given], request_id=str(index))
    seen = [answers.get(timeout=60) for _ in range(6)]
    client.stop_stream()
    return [str(error) if error else result.get_response().id for result, error in seen]


def asynchronous(address: str) -> Any:
    async def requests() -> Any:
        for index in range(4):
            given = triton_aio.InferInput("frames", [1, SIZE, SIZE, 3], "UINT8")
            given.set_data_from_numpy(pictures(1))
            yield {"model_name": "shapes", "inputs": [given], "request_id": str(index)}

    async def run() -> Any:
        async with triton_aio.InferenceServerClient(address) as client:
            given = tensor("frames", pictures(1), "UINT8")
            answers = await asyncio.gather(*(client.infer("shapes", [given], request_id=str(n)) for n in range(8)))
            streamed = [result.get_response().id async for result, _ in client.stream_infer(requests())]
            return {
                "ready": await client.is_model_ready("shapes"),
                "ids": [answer.get_response().id for answer in answers],
                "streamed": streamed,
            }

    return asyncio.run(run())


def memory(address: str, prefix: str) -> Any:
    """The picture and the answer in shared memory, from a client over whatever `address` is."""
    client = triton.InferenceServerClient(address)
    frames = pictures(1)
    expected = client.infer("shapes", [tensor("frames", frames, "UINT8")]).as_numpy("output0")
    names = {"in": frames.nbytes, "out": expected.nbytes}
    regions = {}
    try:
        for name, size in names.items():
            regions[name] = shared_memory.create_shared_memory_region(name, f"/{prefix}{name}", size)
            client.register_system_shared_memory(name, f"/{prefix}{name}", size)
        shared_memory.set_shared_memory_region(regions["in"], [frames])
        given = triton.InferInput("frames", frames.shape, "UINT8")
        given.set_shared_memory("in", frames.nbytes)
        wanted = triton.InferRequestedOutput("output0")
        wanted.set_shared_memory("out", expected.nbytes)
        client.infer("shapes", [given], outputs=[wanted])
        found = shared_memory.get_contents_as_numpy(regions["out"], np.float32, expected.shape)
        status = sorted(client.get_system_shared_memory_status(as_json=True)["regions"])
        client.unregister_system_shared_memory()
        return {"same": bool(np.array_equal(found, expected)), "status": status}
    finally:
        for region in regions.values():
            shared_memory.destroy_shared_memory_region(region)


def text(address: str) -> Any:
    """Text and half floats, through a model that gives back what it takes."""
    client = triton.InferenceServerClient(address)
    words = np.array([["a€".encode(), b""]], object)
    halves = np.array([1.5, -2], np.float16)
    given = [tensor("words", words, "BYTES"), tensor("halves", halves, "FP16")]
    answer = client.infer("echo", given)
    return {
        "words": [[word.decode() for word in row] for row in answer.as_numpy("words_out").tolist()],
        "halves": answer.as_numpy("halves_out").tolist(),
    }


def load(address: str) -> Any:
    """Unload, ask, load, ask."""
    client = triton.InferenceServerClient(address)
    given = [tensor("frames", pictures(1), "UINT8")]
    client.unload_model("shapes")
    unloaded = [code_of(lambda: client.infer("shapes", given)), client.is_model_ready("shapes")]
    index = client.get_model_repository_index(as_json=True)["models"][0]
    client.load_model("shapes")
    loaded = client.infer("shapes", given).get_response().model_version
    return {"unloaded": unloaded, "index": index, "loaded": loaded, "unknown": code_of(lambda: client.load_model("no"))}


def swaps(address: str, until: str) -> Any:
    """Ask until `until` answers; the versions in the order in which they did."""
    client = triton.InferenceServerClient(address)
    versions: list[str] = []
    while until not in versions:
        size = 320 if client.get_model_metadata("shapes").inputs[0].shape[-1] == 320 else SIZE
        frames = np.zeros((1, size, size, 3), np.uint8)
        try:
            version = client.infer("shapes", [tensor("frames", frames, "UINT8")]).get_response().model_version
        except InferenceServerException as error:
            if "shape" not in str(error):  # the version was swapped after it was asked what it takes
                raise
            continue
        if version not in versions:
            versions.append(version)
            print("answered", flush=True)
    return versions


def fields(address: str) -> Any:
    """Every field of the protocol as tritonclient has it: message, name, number, type and label."""

    def of(message: Any, prefix: str) -> Any:
        for field in message.field:
            kind = field.type_name or field.type
            yield f"{prefix}{message.name}.{field.name}", [field.number, kind, field.label]
        for nested in message.nested_type:
            yield from of(nested, f"{prefix}{message.name}.")

    found: dict[str, Any] = {}
    for module in (service_pb2, model_config_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        found.update(entry for message in file.message_type for entry in of(message, ""))
        for service in file.service:
            for method in service.method:
                streams = [method.client_streaming, method.server_streaming]
                found[f"{service.name}/{method.name}"] = [method.input_type, method.output_type, *streams]
        for enum in file.enum_type:
            found[enum.name] = {value.name: value.number for value in enum.value}
    return found


CASES = {
    "describe": describe,
    "infer": infer,
    "stream": stream,
    "asynchronous": asynchronous,
    "memory": memory,
    "text": text,
    "load": load,
    "swaps": swaps,
    "fields": fields,
}

if __name__ == "__main__":
    _, where, case, *arguments = sys.argv
    print(json.dumps(CASES[case](where, *arguments)))
