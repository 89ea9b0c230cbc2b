"""Shared memory that requests for tensors speak of: one region to read, one to write to, and one of sound requests.

Damaged requests may write to the first two; what the third holds is compared with what comes back.
"""

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
READ, WRITTEN, SOUND = _REGIONS = "read", "written", "sound"


@dataclass(frozen=True, slots=True)
class Memories:
    """`prefix`: what the server lets names begin with. `content`: of each region at first."""

    prefix: str
    content: bytes

    def key(self, region: str) -> str:
        return f"/{self.prefix}{region}"

    def register(self, stub: open_inference_pb2_grpc.GRPCInferenceServiceStub) -> list[str]:
        """Let the server know these regions, and no others; the methods that were called."""
        stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(), timeout=60)
        for name in _REGIONS:
            request = pb.SystemSharedMemoryRegisterRequest(name=name, key=self.key(name), byte_size=SIZE)
            stub.SystemSharedMemoryRegister(request, timeout=60)
        return [f"{SERVICE}/SystemSharedMemory{what}" for what in ("Unregister", *("Register" for _ in _REGIONS))]


@contextmanager
def memories() -> Iterator[Memories]:
    """Memory for as long as this lasts."""
    made = Memories(f"videoai-fuzz-{os.getpid()}-", random.Random(1).randbytes(SIZE))  # noqa: S311
    files = [FOLDER / made.key(name)[1:] for name in _REGIONS]
    try:
        for file in files:
            file.write_bytes(made.content)
        yield made
    finally:
        for file in files:
            file.unlink(missing_ok=True)
