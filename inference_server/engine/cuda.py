"""What is asked of CUDA's driver itself: to copy frames from where they lie to where a session reads them.

ONNX Runtime copies one array, which several frames would have to be stacked for first, and only from memory that is not
pinned; so a frame would cross the host's memory three times more, in one thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from ctypes import c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from functools import cache
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from inference_server.engine.device import Device
from inference_server.engine.stacks import Stack

log = structlog.get_logger(__name__)

LIBRARY = "libcuda.so.1"
# The stream that belongs to the thread that calls.
PER_THREAD = c_void_p(2)
PORTABLE, READ_ONLY = 1, 8
READ_ONLY_SUPPORTED = 113
# Of a call that copies more, the interpreter need not wait for the end.
SHORT = 4 << 20


class Driver:
    """CUDA's driver, for the device `index`. Raises OSError where there is none, RuntimeError for whatever fails."""

    def __init__(self, index: int) -> None:
        # Giving the interpreter up and getting it back takes longer than most calls do.
        self._calls = ctypes.PyDLL(LIBRARY)
        self._long_calls = ctypes.CDLL(LIBRARY)
        self._context = c_void_p()
        device, supported = c_int(), c_int()
        self._check(self._calls.cuInit(c_uint(0)))
        self._check(self._calls.cuDeviceGet(ctypes.byref(device), c_int(index)))
        self._check(self._calls.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), device))
        self._check(self._calls.cuDeviceGetAttribute(ctypes.byref(supported), c_int(READ_ONLY_SUPPORTED), device))
        self._read_only = READ_ONLY if supported.value else 0

    def fill(self, buffer: Any, stack: Stack) -> None:
        """Copy `stack` into an OrtValue of its shape and type on the device; it is there when this returns."""
        self._enter()
        parts = [np.ascontiguousarray(part) for part in stack.parts]
        start = buffer.data_ptr()
        end = start + buffer.tensor_size_in_bytes()
        for part in parts:
            calls = self._calls if part.nbytes <= SHORT else self._long_calls
            source = c_void_p(part.ctypes.data)
            self._check(calls.cuMemcpyHtoDAsync_v2(c_uint64(start), source, c_size_t(part.nbytes), PER_THREAD))
            start += part.nbytes
        if start < end:
            zeros = c_uint64(start), c_ubyte(0), c_size_t(end - start)
            self._check(self._calls.cuMemsetD8Async(*zeros, PER_THREAD))
        self._check(self._long_calls.cuStreamSynchronize(PER_THREAD))

    def pin(self, memory: NDArray[np.uint8]) -> Callable[[], None]:
        """Let the device read `memory` by itself, which is three times as quick; until what this returns is called.

        It must be called before the memory is unmapped. Memory that cannot be pinned is copied from all the same.
        """
        flags = PORTABLE | (0 if memory.flags.writeable else self._read_only)
        address = memory.ctypes.data
        try:
            self._enter()
            self._check(self._calls.cuMemHostRegister_v2(c_void_p(address), c_size_t(memory.nbytes), c_uint(flags)))
        except RuntimeError as error:
            log.debug("memory not pinned", reason=str(error))
            return lambda: None
        return lambda: self._unpin(address)

    def _unpin(self, address: int) -> None:
        self._enter()
        self._check(self._calls.cuMemHostUnregister(c_void_p(address)))

    def _enter(self) -> None:
        """Let the calls of this thread be about this device."""
        self._check(self._calls.cuCtxSetCurrent(self._context))

    def _check(self, result: int) -> None:
        if result:
            name = c_char_p()
            self._calls.cuGetErrorName(c_int(result), ctypes.byref(name))
            raise RuntimeError(f"CUDA's driver says {(name.value or b'').decode() or result}")


@cache
def driver(index: int) -> Driver | None:
    """The driver for the device `index`; None where it is called otherwise than on Linux."""
    with suppress(OSError):
        return Driver(index)
    return None


def pinning(device: Device) -> Callable[[NDArray[np.uint8]], Callable[[], None]] | None:
    """`Driver.pin` of the driver that `device` has; None for the CPU."""
    found = driver(device.index) if device.memory == "cuda" else None
    return None if found is None else found.pin
