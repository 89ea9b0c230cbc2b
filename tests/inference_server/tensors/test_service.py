"""What callers of the protocol get, over a real socket."""

import asyncio
import logging

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper
from tensor_models import brightness, identity
from videoai.open_inference.v2 import open_inference_pb2 as pb

NUMBERS = {
    "BOOL": (TensorProto.BOOL, "bool_contents", [True, False]),
    "UINT8": (TensorProto.UINT8, "uint_contents", [1, 255]),
    "UINT16": (TensorProto.UINT16, "uint_contents", [1, 65535]),
    "UINT32": (TensorProto.UINT32, "uint_contents", [1, 2**32 - 1]),
    "UINT64": (TensorProto.UINT64, "uint64_contents", [1, 2**64 - 1]),
    "INT8": (TensorProto.INT8, "int_contents", [1, -128]),
    "INT16": (TensorProto.INT16, "int_contents", [1, -32768]),
    "INT32": (TensorProto.INT32, "int_contents", [1, -(2**31)]),
    "INT64": (TensorProto.INT64, "int64_contents", [1, -(2**63)]),
    "FP32": (TensorProto.FLOAT, "fp32_contents", [1.5, -2]),
    "FP64": (TensorProto.DOUBLE, "fp64_contents", [1.5, -2]),
}


@pytest.mark.parametrize("datatype", NUMBERS)
async def test_every_type_of_number_raw_and_typed(server, datatype):
    kind, field, values = NUMBERS[datatype]
    server.put(identity(kind, ("N", 1)))
    expected = np.array(values, helper.tensor_dtype_to_np_dtype(kind)).tobytes()
    raw = await server.infer(("input0", datatype, [2, 1]), raw=[expected], id="a")
    typed = await server.infer(
        ("input0", datatype, [2, 1], {"contents": pb.InferTensorContents(**{field: values})}), id="a"
    )
    assert raw == typed
    assert (raw.id, raw.model_name, raw.model_version) == ("a", "thing", "1")
    assert [bytes(content) for content in raw.raw_output_contents] == [expected]
    (output,) = raw.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("output0", datatype, [2, 1])
    assert not output.HasField("contents")


@pytest.mark.parametrize(("datatype", "kind"), [("FP16", TensorProto.FLOAT16), ("BF16", TensorProto.BFLOAT16)])
async def test_half_floats_are_raw(server, refused, datatype, kind):
    server.put(identity(kind, (2,)))
    raw = b"\x80\x3f\x00\xc0"
    answer = await server.infer(("input0", datatype, [2]), raw=[raw])
    assert (answer.outputs[0].datatype, answer.raw_output_contents[0]) == (datatype, raw)
    contents = {"contents": pb.InferTensorContents(fp32_contents=[1, 2])}
    code, words = await refused(server.infer(("input0", datatype, [2], contents)))
    assert (code, words) == (
        "INVALID_ARGUMENT",
        f"inputs[0].contents: expected none, for {datatype} can only be sent raw",
    )


async def test_text_raw_and_typed(server):
    server.put(identity(TensorProto.STRING, (1, None)))
    raw = b"\x03\x00\x00\x00\xe2\x82\xac\x00\x00\x00\x00"
    answers = [
        await server.infer(("input0", "BYTES", [1, 2]), raw=[raw]),
        await server.infer(
            ("input0", "BYTES", [1, 2], {"contents": pb.InferTensorContents(bytes_contents=["€".encode(), b""])})
        ),
    ]
    assert [answer.raw_output_contents[0] for answer in answers] == [raw, raw]


async def test_scalars_empty_tensors_and_several_inputs(server):
    server.put(identity(TensorProto.INT64, (), ("N", 3), ("M",)))
    raw = [np.int64(7).tobytes(), b"", np.arange(2).tobytes()]
    answer = await server.infer(
        ("input1", "INT64", [0, 3]), ("input0", "INT64", []), ("input2", "INT64", [2]), raw=[raw[1], raw[0], raw[2]]
    )
    assert [(list(output.shape)) for output in answer.outputs] == [[], [0, 3], [2]]
    assert list(answer.raw_output_contents) == raw


async def test_outputs_come_as_they_are_asked_for(server, refused):
    server.put(identity(TensorProto.UINT8, (1,), (1,)))
    inputs = (("input0", "UINT8", [1]), ("input1", "UINT8", [1]))
    wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name=f"output{index}") for index in (1, 0, 7)]
    answer = await server.infer(*inputs, raw=[b"a", b"b"], outputs=wanted[:2])
    assert [output.name for output in answer.outputs] == ["output1", "output0"]
    assert list(answer.raw_output_contents) == [b"b", b"a"]
    assert len((await server.infer(*inputs, raw=[b"a", b"b"], outputs=wanted[:1])).outputs) == 1
    code, words = await refused(server.infer(*inputs, raw=[b"a", b"b"], outputs=wanted))
    assert (code, words) == (
        "INVALID_ARGUMENT",
        "outputs[2].name: expected one of output0, output1, got 'output7'",
    )
    code, words = await refused(server.infer(*inputs, raw=[b"a", b"b"], outputs=[wanted[0], wanted[0]]))
    assert "each once" in words


FP32 = {"contents": pb.InferTensorContents(fp32_contents=[1, 2])}
WRONG = {
    "unknown input": ([("other", "FP32", [2])], [bytes(8)], "inputs[0].name: expected one of input0, got 'other'"),
    "twice": ([("input0", "FP32", [2])] * 2, [bytes(8)] * 2, "each once"),
    "none": ([], [], "inputs: expected input0, got none"),
    "type": ([("input0", "FP64", [2])], [bytes(16)], "inputs[0].datatype: expected FP32 for input0, got 'FP64'"),
    "no type": ([("input0", "FLOAT", [2])], [bytes(8)], "'FLOAT', which is no datatype"),
    "rank": ([("input0", "FP32", [2, 1])], [bytes(8)], "inputs[0].shape: expected [2] for input0, got [2, 1]"),
    "size": ([("input0", "FP32", [3])], [bytes(12)], "inputs[0].shape: expected [2]"),
    "negative": ([("input0", "FP32", [-2])], [bytes(8)], "inputs[0].shape: expected dimensions of 0 or more"),
    "bytes": ([("input0", "FP32", [2])], [bytes(7)], "expected 8 bytes for 2 elements of FP32, got 7"),
    "more raw": ([("input0", "FP32", [2])], [bytes(8)] * 2, "raw_input_contents: expected 1 entries"),
    "mixed": ([("input0", "FP32", [2], FP32)], [bytes(8)], "none where raw_input_contents is given"),
    "nothing": ([("input0", "FP32", [2])], [], "inputs[0] (input0): expected 2 elements, got 0"),
    "wrong field": (
        [("input0", "FP32", [2], {"contents": pb.InferTensorContents(int_contents=[1, 2])})],
        [],
        "inputs[0].contents: expected fp32_contents for FP32, got int_contents",
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_malformed_requests(server, refused, wrong):
    server.put(identity(TensorProto.FLOAT, (2,)))
    inputs, raw, words = wrong
    code, said = await refused(server.infer(*inputs, raw=raw))
    assert code == "INVALID_ARGUMENT"
    assert words in said


async def test_no_elements_in_too_large_a_shape(server, refused):
    server.put(identity(TensorProto.FLOAT, ("N", "M")))
    assert (await server.infer(("input0", "FP32", [0, 2**40]), raw=[b""])).outputs[0].shape == [0, 2**40]
    code, said = await refused(server.infer(("input0", "FP32", [0, 2**62]), raw=[b""]))
    assert code == "INVALID_ARGUMENT"
    assert said.startswith("inputs[0].shape: expected smaller or fewer dimensions")


async def test_bytes_that_are_no_request_end_a_stream_after_its_answers(server):
    server.put(identity(TensorProto.FLOAT, (1,)))
    request = pb.ModelInferRequest(model_name="thing", raw_input_contents=[bytes(4)])
    request.inputs.add(name="input0", datatype="FP32", shape=[1])
    ask = server.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    call = ask(iter([request.SerializeToString(), b"\x0a\xff"]))
    assert not pb.ModelStreamInferResponse.FromString(await call.read()).error_message
    with pytest.raises(grpc.aio.AioRpcError, match="request: expected a message"):
        await call.read()
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_models_and_versions_that_do_not_run(server, refused):
    ask = server.stub
    assert (await refused(ask.ModelMetadata(pb.ModelMetadataRequest(name="no"))))[0] == "NOT_FOUND"
    server.models.announced("thing")
    assert (await refused(server.infer()))[0] == "UNAVAILABLE"
    assert not (await ask.ServerReady(pb.ServerReadyRequest())).ready
    server.put(identity(TensorProto.FLOAT, (2,)), version=3)
    assert (await ask.ServerReady(pb.ServerReadyRequest())).ready
    assert (await refused(server.infer(model_version="2")))[0] == "NOT_FOUND"
    assert (await refused(server.infer(model_version="-1")))[0] == "INVALID_ARGUMENT"
    assert (await refused(server.infer(model_version="99999999999")))[0] == "INVALID_ARGUMENT"
    ready = {
        (name, version): (await ask.ModelReady(pb.ModelReadyRequest(name=name, version=version))).ready
        for name, version in (("thing", ""), ("thing", "3"), ("thing", "2"), ("other", ""))
    }
    assert list(ready.values()) == [True, True, False, False]


async def test_a_model_that_fails_with_what_it_is_fed(server, refused):
    nodes = [helper.make_node("Gather", ["table", "input0"], ["output0"])]
    table = helper.make_tensor("table", TensorProto.INT64, [2], [10, 20])
    graph = helper.make_graph(
        nodes,
        "gather",
        [helper.make_tensor_value_info("input0", TensorProto.INT64, (1,))],
        [helper.make_tensor_value_info("output0", TensorProto.INT64, (1,))],
        [table],
    )
    server.put(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert (await server.infer(("input0", "INT64", [1]), raw=[np.int64(1).tobytes()])).raw_output_contents[0][0] == 20
    code, words = await refused(server.infer(("input0", "INT64", [1]), raw=[np.int64(9).tobytes()]))
    assert code == "INTERNAL"
    assert "indices element out of data bounds" in words


async def test_pictures_go_in_as_bytes_or_as_the_file_has_them(server, refused):
    server.put(brightness(factor=2.0))
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
    images = (frames.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    quick = await server.infer(("frames", "UINT8", [3, 4, 6, 3]), raw=[frames.tobytes()])
    exact = await server.infer(("images", "FP32", [3, 3, 4, 6]), raw=[images.tobytes()])
    expected = 2 * images.mean((2, 3), keepdims=True)
    for answer in (quick, exact):
        found = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    code, words = await refused(
        server.infer(
            ("frames", "UINT8", [3, 4, 6, 3]),
            ("images", "FP32", [3, 3, 4, 6]),
            raw=[frames.tobytes(), images.tobytes()],
        )
    )
    assert (code, words) == ("INVALID_ARGUMENT", "inputs: expected images, or frames alone, got frames and images")
    code, words = await refused(server.infer(("frames", "UINT8", [5, 4, 6, 3]), raw=[bytes(5 * 72)]))
    assert (code, words) == ("INVALID_ARGUMENT", "inputs: expected a first dimension of 1..4, the same for all, got 5")


async def test_what_a_model_of_pictures_says_of_itself(server):
    server.put(brightness())
    found = await server.stub.ModelMetadata(pb.ModelMetadataRequest(name="thing"))
    tensors = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in (*found.inputs, *found.outputs)]
    assert tensors == [
        ("images", "FP32", [-1, 3, 4, 6]),
        ("brightness", "FP32", [-1, 3, 1, 1]),
    ]
    assert (list(found.versions), found.platform) == (["1"], "onnxruntime_onnx")
    config = (await server.stub.ModelConfig(pb.ModelConfigRequest(name="thing"))).config
    assert config.max_batch_size == 4
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [("images", [3, 4, 6])]
    assert config.parameters["frames_input"].string_value == "frames UINT8 [-1, 4, 6, 3]"
    assert config.HasField("dynamic_batching")


async def test_a_swap_leaves_each_request_to_one_version(server):
    server.put(brightness(factor=1.0), version=1)
    frames = np.full((4, 4, 6, 3), 255, np.uint8).tobytes()
    seen = set()

    async def ask():
        for _ in range(30):
            answer = await server.infer(("frames", "UINT8", [4, 4, 6, 3]), raw=[frames])
            values = np.frombuffer(answer.raw_output_contents[0], np.float32)
            np.testing.assert_allclose(values, int(answer.model_version), rtol=1e-5)
            seen.add(answer.model_version)

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    for version in range(2, 6):
        await asyncio.sleep(0)
        server.put(brightness(factor=float(version)), version=version)
    await asyncio.gather(*asking)
    await server.infer(("frames", "UINT8", [4, 4, 6, 3]), raw=[frames], model_version="5")
    assert "5" in seen


async def test_parameters_are_honoured_or_refused(server, refused):
    server.put(identity(TensorProto.UINT8, (1,)))

    def ask(**parameters):
        found = {name: pb.InferParameter(**value) for name, value in parameters.items()}
        return server.infer(("input0", "UINT8", [1]), raw=[b"a"], parameters=found)

    for value in ({"int64_param": 1}, {"uint64_param": 4}):
        await ask(priority=value, timeout={"int64_param": 60_000_000}, note={"string_param": "x"})
    assert await refused(ask(priority={"string_param": "high"})) == (
        "INVALID_ARGUMENT",
        "parameters['priority']: expected a whole number of 0 or more, got 'high'",
    )
    assert (await refused(ask(timeout={"int64_param": -1})))[0] == "INVALID_ARGUMENT"
    assert (await refused(ask(sequence_id={"int64_param": 4})))[0] == "UNIMPLEMENTED"


async def test_a_request_that_waits_longer_than_it_may(server, refused):
    loaded = server.put(identity(TensorProto.UINT8, (1,)))
    timeout = {"timeout": pb.InferParameter(int64_param=1000)}
    with server.models.find("thing")._sessions._turns:  # the session is busy
        await asyncio.to_thread(lambda: None)
        code, words = await refused(server.infer(("input0", "UINT8", [1]), raw=[b"a"], parameters=timeout))
    assert code == "UNAVAILABLE"
    assert "waited for the session" in words
    assert loaded.version.version == 1


async def test_streams_answer_in_order_and_go_on_after_an_error(server):
    server.put(identity(TensorProto.UINT8, (1,)))

    async def requests():
        for index in range(40):
            request = pb.ModelInferRequest(model_name="no" if index == 7 else "thing", id=str(index))
            request.inputs.add(name="input0", datatype="UINT8", shape=[1])
            request.raw_input_contents.append(bytes([index]))
            yield request

    answers = [answer async for answer in server.stub.ModelStreamInfer(requests())]
    assert [answer.infer_response.id for answer in answers] == [str(index) for index in range(40)]
    assert [answer.infer_response.id for answer in answers if answer.error_message] == ["7"]
    assert answers[8].infer_response.raw_output_contents[0] == bytes([8])
    assert answers[8].infer_response.parameters["triton_final_response"].bool_param


async def test_statistics_count_what_was_asked(server, refused):
    server.put(brightness())
    for rows in (1, 3, 3):
        await server.infer(("frames", "UINT8", [rows, 4, 6, 3]), raw=[bytes(rows * 72)])
    await refused(server.infer(("frames", "UINT8", [9, 4, 6, 3]), raw=[bytes(9 * 72)]))
    (found,) = (await server.stub.ModelStatistics(pb.ModelStatisticsRequest())).model_stats
    assert (found.name, found.version, found.inference_count, found.execution_count) == ("thing", "1", 7, 3)
    assert (found.inference_stats.success.count, found.inference_stats.fail.count) == (3, 1)
    assert [(batch.batch_size, batch.compute_infer.count) for batch in found.batch_stats] == [(1, 1), (3, 2)]
    assert found.inference_stats.success.ns >= found.inference_stats.compute_infer.ns > 0
    served = server.models.find("thing")
    assert (served.requests_answered, served.requests_failed) == (3, 1)


async def test_the_index_and_who_loads(server, refused):
    server.put(brightness())
    server.models.announced("waiting")
    index = await server.stub.RepositoryIndex(pb.RepositoryIndexRequest())
    assert [(entry.name, entry.version, entry.state) for entry in index.models] == [
        ("thing", "1", "READY"),
        ("waiting", "", ""),
    ]
    index = await server.stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
    assert [entry.name for entry in index.models] == ["thing"]
    ask = server.stub
    await ask.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="thing"))
    assert (await refused(ask.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="waiting"))))[
        0
    ] == "UNAVAILABLE"
    assert (await refused(ask.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="no"))))[0] == "NOT_FOUND"
    config = {"config": pb.ModelRepositoryParameter(string_param="{}")}
    request = pb.RepositoryModelLoadRequest(model_name="thing", parameters=config)
    assert (await refused(ask.RepositoryModelLoad(request)))[0] == "UNIMPLEMENTED"
    request = pb.RepositoryModelUnloadRequest(model_name="thing", repository_name="other")
    assert (await refused(ask.RepositoryModelUnload(request)))[0] == "INVALID_ARGUMENT"
    await ask.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="thing"))
    assert server.repository.calls == [("load", "thing"), ("load", "waiting"), ("unload", "thing")]


async def test_server_metadata(server):
    assert (await server.stub.ServerLive(pb.ServerLiveRequest())).live
    found = await server.stub.ServerMetadata(pb.ServerMetadataRequest())
    assert found.name == "videoai"
    assert "system_shared_memory" in found.extensions


async def test_what_is_not_there_says_so(server, refused):
    ask = server.stub
    for call in (
        ask.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest()),
        ask.CudaSharedMemoryRegister(pb.CudaSharedMemoryRegisterRequest()),
        ask.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest()),
        ask.TraceSetting(
            pb.TraceSettingRequest(settings={"trace_level": pb.TraceSettingRequest.SettingValue(value=["TIMESTAMPS"])})
        ),
    ):
        assert (await refused(call))[0] == "UNIMPLEMENTED"
    settings = (await ask.TraceSetting(pb.TraceSettingRequest())).settings
    assert list(settings["trace_level"].value) == ["OFF"]


async def test_log_settings_change_what_is_logged(server, refused, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    value = pb.LogSettingsRequest.SettingValue

    async def set_to(**settings):
        answer = await server.stub.LogSettings(pb.LogSettingsRequest(settings=settings))
        return {name: setting.bool_param or setting.uint32_param for name, setting in answer.settings.items()}

    assert await set_to() == {"log_error": True, "log_warning": True, "log_info": True, "log_verbose_level": 0}
    assert (await set_to(log_verbose_level=value(uint32_param=1)))["log_verbose_level"] == 1
    assert logging.getLogger().level == logging.DEBUG
    await set_to(log_verbose_level=value(uint32_param=0), log_info=value(bool_param=False))
    assert logging.getLogger().level == logging.WARNING
    code, words = await refused(
        server.stub.LogSettings(pb.LogSettingsRequest(settings={"log_file": value(string_param="/etc/passwd")}))
    )
    assert code == "INVALID_ARGUMENT"
    assert "log_file" in words
