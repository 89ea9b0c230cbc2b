"""What the driver is told to copy, by one that copies in the host's memory; tests/cuda asks a real one."""

import ctypes

import numpy as np
import onnxruntime
import pytest

from inference_server.engine import Device, cuda, pinning
from inference_server.engine.stacks import Stack


class Calls:
    """The driver's calls with the host for a device; those named in `failing` fail."""

    failing = ()
    read_only_supported = 1

    def __init__(self):
        self.pinned = {}

    def __getattr__(self, name):
        return lambda *_: 801 if name in self.failing else 0

    def cuDeviceGetAttribute(self, value, *_):  # noqa: N802 - named by CUDA
        value._obj.value = self.read_only_supported
        return 0

    def cuGetErrorName(self, result, name):  # noqa: N802
        name._obj.value = f"CUDA_ERROR_{result.value}".encode()
        return 0

    def cuMemcpyHtoDAsync_v2(self, to, source, size, _):  # noqa: N802
        ctypes.memmove(to.value, source, size.value)
        return 0

    def cuMemsetD8Async(self, to, value, size, _):  # noqa: N802
        ctypes.memset(to.value, value.value, size.value)
        return 0

    def cuMemHostRegister_v2(self, address, size, flags):  # noqa: N802
        self.pinned[address.value] = size.value, flags.value
        return 801 if "cuMemHostRegister_v2" in self.failing else 0

    def cuMemHostUnregister(self, address):  # noqa: N802
        del self.pinned[address.value]
        return 0


@pytest.fixture
def calls(monkeypatch):
    calls = Calls()
    monkeypatch.setattr(ctypes, "PyDLL", lambda _: calls)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: calls)
    return calls


def filled(stack):
    buffer = onnxruntime.OrtValue.ortvalue_from_shape_and_type(stack.shape, stack.dtype.type)
    buffer.update_inplace(np.full(stack.shape, 7, stack.dtype))
    cuda.Driver(0).fill(buffer, stack)
    return buffer.numpy()


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
@pytest.mark.parametrize(("counts", "missing"), [([1], 0), ([1], 3), ([1, 1, 1], 0), ([2, 1], 5)])
def test_parts_lie_behind_each_other_and_zeros_behind_them(calls, counts, missing, dtype):
    parts = [np.random.default_rng(count).integers(1, 200, (count, 5, 3)).astype(dtype) for count in counts]
    stack = Stack.of(parts, missing)
    expected = np.concatenate([*parts, np.zeros((missing, 5, 3), dtype)])
    np.testing.assert_array_equal(filled(stack), expected)
    np.testing.assert_array_equal(stack.joined(), expected)


def test_a_part_that_does_not_lie_in_rows_is_laid_out_first(calls):
    part = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(0, 2, 1)
    np.testing.assert_array_equal(filled(Stack.of([part])), part)


def test_a_single_number_is_copied(calls):
    assert filled(Stack.of([np.array(3.5)])) == 3.5


@pytest.mark.parametrize("other", [np.zeros((1, 4), np.uint8), np.zeros((1, 5), np.int8)])
def test_unlike_parts_do_not_go_together(other):
    with pytest.raises(ValueError, match="expected rows of one shape and type"):
        Stack.of([np.zeros((1, 5), np.uint8), other])


def test_what_fails_is_told_by_its_name(calls):
    calls.failing = ("cuStreamSynchronize",)
    with pytest.raises(RuntimeError, match="CUDA_ERROR_801"):
        filled(Stack.of([np.zeros((1, 4), np.uint8)]))


@pytest.mark.parametrize(("writable", "supported", "flags"), [(True, 1, 1), (False, 1, 9), (False, 0, 1)])
def test_memory_is_pinned_until_it_is_not(calls, writable, supported, flags):
    calls.read_only_supported = supported
    memory = np.zeros(100, np.uint8)
    memory.flags.writeable = writable
    unpin = cuda.Driver(0).pin(memory)
    assert calls.pinned == {memory.ctypes.data: (100, flags)}
    unpin()
    assert calls.pinned == {}


def test_memory_that_cannot_be_pinned_stays_as_it_is(calls):
    calls.failing = ("cuMemHostRegister_v2",)
    calls.pinned = {}
    cuda.Driver(0).pin(np.zeros(4, np.uint8))()


def test_nothing_is_pinned_for_the_cpu_or_without_a_driver(monkeypatch):
    assert pinning(Device("cpu")) is None
    monkeypatch.setattr(cuda, "LIBRARY", "libcuda-that-is-not-there.so")
    cuda.driver.cache_clear()
    assert pinning(Device("cuda", 99)) is None
    cuda.driver.cache_clear()
