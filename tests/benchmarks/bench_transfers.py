"""What moving a model file through the registry costs, against a bare gRPC stream of the same pieces, cp and sha256."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper
from videoai import RegistryClient

sys.path.insert(0, str(Path(__file__).parent))

from report import Row, compare, rate, report

MIB = 2**20
SIZE = 200 * MIB  # of the file whose rate is measured
LARGE = 500 * MIB  # of the file by which memory is judged
NAME = "bench"

TAKE, GIVE = "/bench/Take", "/bench/Give"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def write_model(path: Path, size: int) -> None:
    """A model as large as it is for its weights, which cannot be compressed."""
    weights = np.frombuffer(np.random.default_rng(0).bytes(size), np.uint8)
    image = helper.make_tensor_value_info("images", TensorProto.UINT8, [size])
    mask = helper.make_tensor_value_info("sum", TensorProto.UINT8, [size])
    node = helper.make_node("BitwiseXor", ["images", "weights"], ["sum"])
    graph = helper.make_graph([node], "bench", [image], [mask], [numpy_helper.from_array(weights, "weights")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


@contextmanager
def process(*command: str) -> Iterator[tuple[str, psutil.Process]]:
    """A server that prints where it listens: its address and process."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            yield server.stdout.readline().split()[-1], psutil.Process(server.pid)
        finally:
            server.kill()


def pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(MIB):
            yield chunk


class Bare(grpc.GenericRpcHandler):
    """Takes a stream of bytes and drops it; gives that of a file. Nothing is looked at, nothing is written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if handler_call_details.method == TAKE:
            return grpc.stream_unary_rpc_method_handler(self._take)
        return grpc.unary_stream_rpc_method_handler(self._give)

    async def _take(self, requests: object, _: object) -> bytes:
        return b"%d" % sum([len(chunk) async for chunk in requests])

    async def _give(self, _: bytes, __: object) -> object:
        for chunk in pieces(self._path):
            yield chunk


async def serve_bare(path: Path) -> None:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((Bare(path),))
    print(f"listening on 127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)
    await server.start()
    await server.wait_for_termination()


def upload(registry: RegistryClient, root: Path, source: Path) -> int:
    model = registry.upload(source, NAME)
    registry.delete(NAME, model.version)
    shutil.rmtree((root / model.path).parent)
    return model.size_bytes // MIB


def bare_upload(channel: grpc.Channel, source: Path) -> int:
    return int(channel.stream_unary(TAKE)(pieces(source))) // MIB


def bare_download(channel: grpc.Channel) -> int:
    return sum(len(chunk) for chunk in channel.unary_stream(GIVE)(b"")) // MIB


def copy(source: Path, target: Path) -> int:
    """As `cp` and `sync` do."""
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return target.stat().st_size // MIB


def digest(source: Path) -> int:
    """What both ends of a transfer do to every byte, beside moving it."""
    with source.open("rb") as file:
        hashlib.file_digest(file, "sha256")
        return file.tell() // MIB


def measure(root: Path, registry: RegistryClient, bare: grpc.Channel, source: Path) -> Iterator[Row]:
    target = root / "target"
    version = registry.upload(source, "kept").version
    sent = partial(rate, partial(upload, registry, root, source))
    got = partial(rate, lambda: registry.download("kept", version, target).size_bytes // MIB)
    others = {"cp and sync": partial(copy, source, target), "sha256 of the file": partial(digest, source)}
    for what, measured, stream in (
        ("upload:", sent, partial(bare_upload, bare, source)),
        ("download:", got, partial(bare_download, bare)),
    ):
        for name, reference in {"bare gRPC stream": stream, **others}.items():
            yield compare(what, measured, name, partial(rate, reference), "MiB/s")


def memory(process: psutil.Process, work: Callable[[], object]) -> dict[str, int]:
    """MiB of memory that the process holds before, at the most meanwhile, and after."""
    before = process.memory_info().rss / MIB
    most = before
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        while not running.done():
            most = max(most, process.memory_info().rss / MIB)
        running.result()
    after = process.memory_info().rss / MIB
    return {"before": round(before), "most": round(most), "after": round(after)}


def main(root: Path) -> None:
    (root / "models").mkdir()
    source, large = root / "source.onnx", root / "large.onnx"
    write_model(source, SIZE)
    write_model(large, LARGE)
    here = (sys.executable, __file__, str(source))
    serving = (sys.executable, "-m", "registry_server", "--root", str(root), "--listen", "127.0.0.1:0")
    with (
        process(*here) as (bare_address, _),
        process(*serving, "--log-level", "error") as (address, server),
        RegistryClient(address) as registry,
        grpc.insecure_channel(bare_address, options=OPTIONS) as bare,
    ):
        rows = list(measure(root, registry, bare, source))
        used = {
            "upload": memory(server, partial(registry.upload, large, "large")),
            "download": memory(server, partial(registry.download, "large", 1, root / "target")),
        }
    report("transfers", rows, {"file_bytes": SIZE, "large_file_bytes": LARGE, "server_memory_mib": used})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        import asyncio

        asyncio.run(serve_bare(Path(sys.argv[1])))
    else:
        with tempfile.TemporaryDirectory(dir=".") as place:
            main(Path(place))
