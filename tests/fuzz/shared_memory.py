"""Shared memory that requests for tensors speak of: one region to read from, one to be written to."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from videoai.open_inference.v2 import open_inference_pb2 as pb
from videoai.open_inference.v2 import open_inference_pb2_grpc

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux has POSIX shared memory
SERVICE = "/inference.GRPCInferenceService"
SIZE = 64 * 1024
READ, WRITTEN = "read", "written"


@dataclass(frozen=True, slots=True)
class Memories:
    """`prefix`: what the server lets names begin with. `content`: of the region to read from."""

    prefix: str
    content: bytes

    def key(self, region: str) -> str:
        return f"/{self.prefix}{region}"

    def register(self, stub: open_inference_pb2_grpc.GRPCInferenceServiceStub) -> list[str]:
        """Let the server know both regions, and no other; the methods that were called."""
        stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(), timeout=60)
        for name in (READ, WRITTEN):
            request = pb.SystemSharedMemoryRegisterRequest(name=name, key=self.key(name), byte_size=SIZE)
            stub.SystemSharedMemoryRegister(request, timeout=60)
        return [f"{SERVICE}/SystemSharedMemory{what}" for what in ("Unregister", "Register", "Register")]


@contextmanager
def memories() -> Iterator[Memories]:
    """Memory for as long as this lasts."""
    made = Memories(f"videoai-fuzz-{os.getpid()}-", random.Random(1).randbytes(SIZE))  # noqa: S311
    files = [FOLDER / made.key(name)[1:] for name in (READ, WRITTEN)]
    try:
        for file in files:
            file.write_bytes(made.content)
        yield made
    finally:
        for file in files:
            file.unlink(missing_ok=True)
