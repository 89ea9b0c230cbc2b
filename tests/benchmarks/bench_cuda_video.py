"""AnalyzeVideo and ModelInfer with a YOLOv8n-sized fp16 graph on CUDA, the servers as real processes.

python tests/benchmarks/bench_cuda_video.py [--streams 1 8 32] [--frames 1 8 32] [--rounds 5] [--device cpu]

AnalyzeVideo of 1, 8 and 32 streams of 720p against the decoder alone: the same decoders, told to prepare for the same
model, their frames given back unread. ModelInfer of 1, 8 and 32 frames of bytes against the session in this process
that is given the same bytes. The first round is not counted: in it the server settles on a size of batch. With
--device cpu it is a dry run, small, that shows nothing but that it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

import grpc
import numpy as np
import yolo_sized
from demo import scene
from videoai import InferenceClient
from videoai.open_inference.v2 import open_inference_pb2 as pb
from videoai.open_inference.v2 import open_inference_pb2_grpc

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

from harness import NAME, Pair
from report import ROUNDS, Row, compare, report, shown

from inference_server.detection import Layout
from inference_server.engine import LoadedModel, ModelVersion, choose_device, load
from inference_server.video import DecoderPool, StreamRequest, Target

COUNTS = (1, 8, 32)
REQUESTS = 60


def served(address: str, video: Path, streams: int) -> float:
    """Frames per second of so many calls at once, each of a client of its own."""
    counts: list[int] = []

    def one() -> None:
        with InferenceClient(address) as client, client.analyze_video(video, NAME) as frames:
            counts.append(sum(1 for _ in frames))

    threads = [threading.Thread(target=one) for _ in range(streams)]
    start = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == streams
    return sum(counts) / (perf_counter() - start)


async def decoded(video: bytes, layout: Layout, streams: int) -> float:
    """Frames per second of so many decoders whose frames nobody looks at."""

    async def one(pool: DecoderPool) -> int:
        count = 0
        async with await pool.open(StreamRequest(), Target(layout, 0)) as stream:

            async def feed() -> None:
                for start in range(0, len(video), 65536):
                    await stream.feed(video[start : start + 65536])
                await stream.end_of_input()

            feeding = asyncio.create_task(feed())
            async for frame in stream:
                frame.release()
                count += 1
            await feeding
        return count

    async with DecoderPool() as pool:
        await one(pool)  # so that the process that decoders are forked from is up, as the server's is
        start = perf_counter()
        counts = await asyncio.gather(*(one(pool) for _ in range(streams)))
        return sum(counts) / (perf_counter() - start)


def inferred(address: str, frames: np.ndarray) -> float:
    """Frames per second of one caller of ModelInfer, a batch in each request."""
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        tensor = pb.ModelInferRequest.InferInputTensor(name="frames", datatype="UINT8", shape=frames.shape)
        request = pb.ModelInferRequest(model_name=NAME, inputs=[tensor], raw_input_contents=[frames.tobytes()])
        return per_second(lambda: stub.ModelInfer(request, timeout=60), len(frames))


def bare(model: LoadedModel, frames: np.ndarray) -> float:
    def run() -> None:
        model.run_rows([{model.frames_input: frames}])

    return per_second(run, len(frames))


def per_second(work: Callable[[], object], frames: int) -> float:
    start = perf_counter()
    for _ in range(REQUESTS):
        work()
    return REQUESTS * frames / (perf_counter() - start)


def rows(address: str, video: Path, loaded: Callable[..., LoadedModel], options: argparse.Namespace) -> Iterator[Row]:
    content, layout = video.read_bytes(), loaded().layout
    for count in options.streams:
        yield compare(
            f"AnalyzeVideo, {count} streams, 720p",
            lambda count=count: served(address, video, count),
            "their decoders alone",
            lambda count=count: asyncio.run(decoded(content, layout, count)),
            "frames/s",
            options.rounds,
        )
    random = np.random.default_rng(0)
    for count in options.frames:
        frames = random.integers(0, 256, (count, layout.height, layout.width, 3), np.uint8)
        model = loaded(max_batch=count)
        yield compare(
            f"ModelInfer, {count} frames a request",
            lambda frames=frames: inferred(address, frames),
            "the session, bytes in this process",
            lambda model=model, frames=frames: bare(model, frames),
            "frames/s",
            options.rounds,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--streams", type=int, nargs="*", default=COUNTS, help="at once, of AnalyzeVideo")
    parser.add_argument("--frames", type=int, nargs="*", default=COUNTS, help="in a request of ModelInfer")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="after one to warm up")
    options = parser.parse_args()
    dry = options.device == "cpu"
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "models").mkdir()
        path = yolo_sized.write(root / "yolo.onnx", fp16=not dry, size=64 if dry else 640)
        video = root / "720p.mp4"
        scene.encode(video, frames=60 if dry else 240, size=(1280, 720))
        pair = Pair(root)
        try:
            pair.start_registry()
            pair.register(path, 1)
            pair.activate(1)
            server = pair.start_inference("--max-batch", str(max(COUNTS)), device=options.device)
            running = pair.wait_until_running(1)
            version, device = ModelVersion(NAME, 1, path), choose_device(options.device)
            seen = shown(rows(server.address, video, partial(load, version, device), options))
            report(f"cuda-video{'-dry' * dry}", seen, {"provider": running.provider})
        finally:
            pair.close()


if __name__ == "__main__":
    main()
