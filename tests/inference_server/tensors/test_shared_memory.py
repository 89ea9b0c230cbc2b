"""Tensors in POSIX shared memory: only where it is allowed, and never beyond what is there."""

import os

import numpy as np
import pytest
from onnx import TensorProto
from tensor_models import identity
from videoai.open_inference.v2 import open_inference_pb2 as pb

from inference_server.errors import InvalidField, RegionExists
from inference_server.tensors import Regions

Wanted = pb.ModelInferRequest.InferRequestedOutputTensor


def register(server, key, size, *, name="a", offset=0):
    request = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=size)
    return server.stub.SystemSharedMemoryRegister(request)


def there(size, *, region="a", offset=None):
    """The parameters of a tensor that lies in shared memory."""
    parameters = {
        "shared_memory_region": pb.InferParameter(string_param=region),
        "shared_memory_byte_size": pb.InferParameter(int64_param=size),
    }
    if offset is not None:
        parameters["shared_memory_offset"] = pb.InferParameter(int64_param=offset)
    return {"parameters": parameters}


async def test_it_is_not_allowed_by_default(closed_server, refused, memory):
    key, _ = memory(bytes(8))
    ask = closed_server.stub
    closed_server.put(identity(TensorProto.UINT8, (2,)))
    for call in (
        register(closed_server, key, 8),
        ask.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()),
        ask.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest()),
        closed_server.infer(("input0", "UINT8", [2], there(2))),
    ):
        code, words = await refused(call)
        assert code == "UNIMPLEMENTED"
        assert "--shared-memory" in words
    found = await ask.ServerMetadata(pb.ServerMetadataRequest())
    assert "system_shared_memory" not in found.extensions


async def test_in_and_out(server, memory):
    server.put(identity(TensorProto.UINT8, (4,), (4,)))
    key, path = memory(b"0123456789abcdef")
    await register(server, key, 12, offset=4)
    answer = await server.infer(
        ("input0", "UINT8", [4], there(4)),
        ("input1", "UINT8", [4]),
        raw=[b"wxyz"],
        outputs=[Wanted(name="output1", **there(8, offset=4)), Wanted(name="output0")],
    )
    assert path.read_bytes() == b"01234567wxyzcdef"
    placed, sent = answer.outputs
    assert placed.parameters["shared_memory_region"].string_param == "a"
    assert placed.parameters["shared_memory_byte_size"].int64_param == 4
    assert not sent.parameters
    assert list(answer.raw_output_contents) == [b"", b"4567"]


async def test_nothing_is_sent_where_all_is_in_shared_memory(server, memory):
    server.put(identity(TensorProto.STRING, (1,)))
    key, path = memory(b"\x02\x00\x00\x00ab" + bytes(10))
    await register(server, key, 16)
    answer = await server.infer(
        ("input0", "BYTES", [1], there(6)), outputs=[Wanted(name="output0", **there(10, offset=6))]
    )
    assert path.read_bytes()[6:12] == b"\x02\x00\x00\x00ab"
    assert answer.outputs[0].parameters["shared_memory_byte_size"].int64_param == 6
    assert list(answer.raw_output_contents) == [b""]


async def test_status_and_unregistering(server, refused, memory):
    key, _ = memory(bytes(16))
    ask = server.stub
    await register(server, key, 8, name="a")
    await register(server, key, 8, name="b", offset=8)
    assert (await refused(register(server, key, 8, name="b")))[0] == "ALREADY_EXISTS"
    found = (await ask.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest())).regions
    assert {name: (region.key, region.offset, region.byte_size) for name, region in found.items()} == {
        "a": (key, 0, 8),
        "b": (key, 8, 8),
    }
    await ask.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="a"))
    await ask.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="a"))
    code, words = await refused(ask.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(name="a")))
    assert (code, words) == ("NOT_FOUND", "no shared memory region 'a' is registered")
    await ask.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())
    assert not (await ask.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest())).regions


@pytest.mark.parametrize("key", ["", "/", "../passwd", "/a/b", "other", "/..", "videoai-test\0"])
async def test_names_that_are_not_allowed(server, refused, key):
    code, words = await refused(register(server, key, 8))
    assert code == "INVALID_ARGUMENT"
    assert "key: expected the name of POSIX shared memory that begins with" in words


async def test_memory_that_is_not_there_or_smaller(server, refused, memory):
    key, path = memory(bytes(8))
    assert "No such file" in (await refused(register(server, f"{key}-gone", 8)))[1]
    for size, offset in ((9, 0), (8, 1), (0, 0), (2**64 - 1, 0), (1, 2**64 - 1)):
        assert (await refused(register(server, key, size, offset=offset)))[0] == "INVALID_ARGUMENT"
    link = path.with_name(f"{path.name}-link")
    link.symlink_to("/etc/hostname")
    try:
        assert (await refused(register(server, f"/{link.name}", 1)))[0] == "INVALID_ARGUMENT"
    finally:
        link.unlink()


async def test_tensors_that_reach_beyond_their_region(server, refused, memory):
    server.put(identity(TensorProto.UINT8, (4,)))
    key, _ = memory(bytes(16))
    await register(server, key, 8)
    asked = ("input0", "UINT8", [4])
    for wrong in (there(9), there(4, offset=5), there(4, offset=-1), there(-4), there(4, offset=2**62)):
        code, words = await refused(server.infer((*asked, wrong)))
        assert code == "INVALID_ARGUMENT"
        assert "bytes of region 'a', which has 8" in words
    assert (await refused(server.infer((*asked, there(4, region="b")))))[0] == "NOT_FOUND"
    assert "expected 4 bytes" in (await refused(server.infer((*asked, there(5)))))[1]
    small = Wanted(name="output0", **there(3))
    assert "expected 4 bytes or more" in (await refused(server.infer((*asked, there(4)), outputs=[small])))[1]
    both = {**there(4), "contents": pb.InferTensorContents(uint_contents=[1, 2, 3, 4])}
    assert "none where shared_memory_region" in (await refused(server.infer((*asked, both))))[1]
    no_size = {"parameters": {"shared_memory_region": pb.InferParameter(string_param="a")}}
    assert "shared_memory_byte_size beside" in (await refused(server.infer((*asked, no_size))))[1]


async def test_a_region_is_looked_up_for_each_request(server, refused, memory):
    """Also where requests are equal but for their tensors."""
    server.put(identity(TensorProto.UINT8, (4,)))
    ask = server.stub
    inside = [("input0", "UINT8", [4], there(4))]
    outside = {"raw": [b"wxyz"], "outputs": [Wanted(name="output0", **there(4, offset=4))]}

    async def works(path):
        path.write_bytes(b"abcdefgh")
        for _ in range(2):
            assert (await server.infer(*inside)).raw_output_contents[0] == b"abcd"
            await server.infer(("input0", "UINT8", [4]), **outside)
            assert path.read_bytes() == b"abcdwxyz"
        path.write_bytes(b"ijklmnop")
        assert (await server.infer(*inside)).raw_output_contents[0] == b"ijkl"

    for name in ("one", "two"):
        key, path = memory(bytes(8), name)
        await register(server, key, 8)
        await works(path)
        await ask.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="a"))
        for again in (server.infer(*inside), server.infer(("input0", "UINT8", [4]), **outside)):
            assert await refused(again) == ("NOT_FOUND", "no shared memory region 'a' is registered")
        assert path.read_bytes() == b"ijklmnop"
    await register(server, key, 3)
    for again in (server.infer(*inside), server.infer(("input0", "UINT8", [4]), **outside)):
        assert "bytes of region 'a', which has 3" in (await refused(again))[1]
    assert path.read_bytes() == b"ijklmnop"


async def test_nothing_is_run_or_written_for_an_output_without_a_region(server, refused, memory):
    loaded = server.put(identity(TensorProto.UINT8, (4,), (4,)))
    (one, _), (two, path) = memory(bytes(8), "one"), memory(bytes(8), "two")
    await register(server, one, 8, name="a")
    await register(server, two, 8, name="b")
    inputs = ("input0", "UINT8", [4]), ("input1", "UINT8", [4])
    outputs = [Wanted(name="output1", **there(4, region="b")), Wanted(name="output0", **there(4, region="a"))]
    await server.infer(*inputs, raw=[b"abcd", b"efgh"], outputs=outputs)
    assert path.read_bytes() == b"efgh" + bytes(4)
    ran, run = [], loaded.run_rows
    loaded.run_rows = lambda *arguments: ran.append(arguments) or run(*arguments)
    await server.stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="a"))
    code, words = await refused(server.infer(*inputs, raw=[b"ABCD", b"EFGH"], outputs=outputs))
    assert (code, words) == ("NOT_FOUND", "no shared memory region 'a' is registered")
    assert path.read_bytes() == b"efgh" + bytes(4)
    assert not ran
    await register(server, one, 8, name="a")
    await server.infer(*inputs, raw=[b"ABCD", b"EFGH"], outputs=outputs)
    assert len(ran) == 1
    assert path.read_bytes() == b"EFGH" + bytes(4)


async def test_memory_that_becomes_smaller_is_an_error_and_no_crash(server, refused, memory):
    server.put(identity(TensorProto.UINT8, (4,)))
    key, path = memory(bytes(1 << 20))
    await register(server, key, 1 << 20)
    os.truncate(path, 0)
    code, words = await refused(server.infer(("input0", "UINT8", [4], there(4, offset=1 << 19))))
    assert code == "INVALID_ARGUMENT"
    assert "has become smaller" in words
    answer = await server.infer(("input0", "UINT8", [4]), raw=[b"abcd"])
    assert np.frombuffer(answer.raw_output_contents[0], np.uint8).tolist() == [*b"abcd"]


def test_any_name_where_the_operator_says_so(memory):
    key, _ = memory(bytes(8))
    regions = Regions("/")
    regions.register("a", key, 0, 8)
    with pytest.raises(RegionExists):
        regions.register("a", key, 0, 8)
    descriptor = regions.find("a").descriptor
    with pytest.raises(InvalidField, match="a name for the region"):
        regions.register("", key, 0, 8)
    regions.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
