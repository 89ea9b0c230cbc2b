"""ModelInfer against the least that it could cost: a gRPC echo of the same bytes, and the session alone.

The echo is a server of a thread pool in a process of its own that gives back what it is sent. Both are asked by the
same client, which sends the same ready bytes, so that what differs is the server. The model takes one picture of
640 x 640 x 3 bytes and does next to nothing with it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from videoai.open_inference.v2 import open_inference_pb2 as pb

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

from harness import Pair
from report import Row, compare, rate, report

from inference_server.engine import LoadedModel, ModelVersion, choose_device, load

MODEL, SIDE = "means", 640
CALLS, THREADS = 100, 4
SHARED = Path("/dev/shm/videoai-bench")  # noqa: S108 - where Linux has POSIX shared memory
METHOD = "/inference.GRPCInferenceService/{}"
TENSORS = {"metadata": {"attributes": {"videoai": {"family": "tensors"}}}}

ECHO = """
import sys
from concurrent.futures import ThreadPoolExecutor
import grpc
server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
handlers = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": echo})
server.add_generic_rpc_handlers((handlers,))
port = server.add_insecure_port(sys.argv[1])
server.start()
print(port, flush=True)
server.wait_for_termination()
"""


def build(path: Path) -> None:
    """Mean of each colour over the first rows, as eight numbers."""
    values = {"start": [0], "end": [8], "axis": [1]}
    nodes = [
        helper.make_node("Slice", ["frames", *values], ["rows"]),
        helper.make_node("Cast", ["rows"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["colors"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["colors", "spread"], ["means"]),
    ]
    constants = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in values.items()]
    constants.append(numpy_helper.from_array(np.ones((3, 8), np.float32), "spread"))
    takes = helper.make_tensor_value_info("frames", TensorProto.UINT8, ["N", SIDE, SIDE, 3])
    gives = helper.make_tensor_value_info("means", TensorProto.FLOAT, ["N", 8])
    graph = helper.make_graph(nodes, MODEL, [takes], [gives], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def request(picture: bytes, **parameters: int | str) -> bytes:
    """A serialised ModelInferRequest for one picture, or for the shared memory that `parameters` tell of."""
    message = pb.ModelInferRequest(model_name=MODEL)
    tensor = message.inputs.add(name="frames", datatype="UINT8", shape=[1, SIDE, SIDE, 3])
    for name, value in parameters.items():
        setattr(tensor.parameters[name], "string_param" if isinstance(value, str) else "int64_param", value)
    if not parameters:
        message.raw_input_contents.append(picture)
    return message.SerializeToString()


class Caller:
    """Sends ready bytes over a channel of its own."""

    def __init__(self, stack: ExitStack, address: str) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = stack.enter_context(grpc.insecure_channel(address, options=options))

    def call(self, content: bytes, method: str = "ModelInfer") -> bytes:
        answer: bytes = self._channel.unary_unary(METHOD.format(method))(content, timeout=60)
        return answer

    def p50(self, content: bytes) -> float:
        """Median milliseconds of a call."""
        ask = self._channel.unary_unary(METHOD.format("ModelInfer"))
        return p50(lambda: ask(content, timeout=60))

    def per_second(self, content: bytes) -> float:
        """Calls per second of four threads."""
        ask = self._channel.unary_unary(METHOD.format("ModelInfer"))

        def work() -> None:
            for _ in range(CALLS):
                ask(content, timeout=60)

        def all_of_them() -> int:
            threads = [threading.Thread(target=work) for _ in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return THREADS * CALLS

        return rate(all_of_them)


def p50(once: Callable[[], object]) -> float:
    def milliseconds() -> float:
        start = perf_counter()
        once()
        return 1000 * (perf_counter() - start)

    return median(milliseconds() for _ in range(CALLS))


@contextmanager
def echo(address: str) -> Iterator[str]:
    """An echo in a process of its own; yields its address."""
    with subprocess.Popen([sys.executable, "-c", ECHO, address], stdout=subprocess.PIPE, text=True) as process:
        try:
            port = (process.stdout or sys.stdin).readline().strip()
            yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
        finally:
            process.terminate()


@contextmanager
def server(root: Path, model: Path, socket: str) -> Iterator[str]:
    """Our servers, listening on TCP and on `socket`; yields the address of the former."""
    (root / "models").mkdir()
    pair = Pair(root)
    try:
        pair.start_registry()
        pair.register(model, 1, name=MODEL, **TENSORS)
        pair.activate(1, name=MODEL)
        process = pair.start_inference("--shared-memory", "videoai-", "--listen", socket)
        pair.wait_until_running(1, name=MODEL)
        yield process.address
    finally:
        pair.close()


def register_memory(caller: Caller, picture: bytes) -> bytes:
    """Put the picture into shared memory; returns the request for it there."""
    SHARED.write_bytes(picture)
    message = pb.SystemSharedMemoryRegisterRequest(name="picture", key=SHARED.name, byte_size=len(picture))
    caller.call(message.SerializeToString(), "SystemSharedMemoryRegister")
    return request(b"", shared_memory_region="picture", shared_memory_byte_size=len(picture))


def compare_all(stack: ExitStack, folder: Path, session: LoadedModel, picture: np.ndarray) -> Iterator[Row]:
    sockets = {name: f"unix:{folder / name}" for name in ("ours.sock", "echo.sock")}
    tcp = Caller(stack, stack.enter_context(server(folder / "root", folder / "means.onnx", sockets["ours.sock"])))
    unix = Caller(stack, sockets["ours.sock"])
    echo_tcp = Caller(stack, stack.enter_context(echo("127.0.0.1:0")))
    echo_unix = Caller(stack, stack.enter_context(echo(sockets["echo.sock"])))
    content = request(picture.tobytes())
    shared = register_memory(unix, picture.tobytes())

    def alone() -> float:
        return p50(lambda: session.run_rows([{"frames": picture}]))

    ways = (
        ("TCP", tcp, content, echo_tcp),
        ("unix socket", unix, content, echo_unix),
        ("shared memory", unix, shared, echo_unix),
    )
    for name, ours, asked, other in ways:
        yield compare(
            f"ModelInfer p50, uint8 640x640x3, {name}",
            lambda ours=ours, asked=asked: ours.p50(asked),
            "echo of the same bytes + the session alone",
            lambda other=other: other.p50(content) + alone(),
            "ms",
        )
    for name, ours, asked, other in ways:
        yield compare(
            f"ModelInfer from {THREADS} threads, {name}",
            lambda ours=ours, asked=asked: ours.per_second(asked),
            "echo of the same bytes",
            lambda other=other: other.per_second(content),
            "calls/s",
        )


def main() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "root").mkdir()
        build(folder / "means.onnx")
        version = ModelVersion(MODEL, 1, folder / "means.onnx", attributes=TENSORS["metadata"]["attributes"])
        session = load(version, choose_device("cpu"))
        try:
            rows = list(compare_all(stack, folder, session, picture))
        finally:
            SHARED.unlink(missing_ok=True)
    report("infer", rows, {"calls a round": CALLS})


if __name__ == "__main__":
    main()
