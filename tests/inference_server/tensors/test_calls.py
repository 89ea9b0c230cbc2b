"""Requests whose heads are equal: what was found out of the first must hold for the others, or be found out anew."""

import asyncio
import gc
from weakref import ref

import numpy as np
import pytest
from onnx import TensorProto, helper
from tensor_models import brightness, identity
from videoai.open_inference.v2 import open_inference_pb2 as pb

from inference_server import pace
from inference_server.batcher import Batcher
from inference_server.errors import InvalidField, ModelNotReady, QueueFull, VersionNotRunning
from inference_server.tensors import Regions, calls
from inference_server.tensors.messages import RequestParser

TWO = ("input0", "UINT8", [2])


def finder(kind):
    """A model that says where its four numbers are not 0: the shape of its output depends on them."""
    node = helper.make_node("NonZero", ["input0"], ["output0"])
    graph = helper.make_graph(
        [node],
        "finder",
        [helper.make_tensor_value_info("input0", kind, (4,))],
        [helper.make_tensor_value_info("output0", TensorProto.INT64, (1, None))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


async def counts(server, name="thing"):
    """How many requests the running version has answered, and how many not."""
    (found,) = (await server.stub.ModelStatistics(pb.ModelStatisticsRequest(name=name))).model_stats
    return found.inference_stats.success.count, found.inference_stats.fail.count


async def test_a_swap_between_them(server, refused):
    def ask():
        return server.infer(("frames", "UINT8", [1, 4, 6, 3]), raw=[bytes([255] * 72)])

    for version in (1, 2, 1):  # the last one once more, which is another session
        server.put(brightness(factor=float(version)), version=version)
        for answered in (1, 2):
            answer = await ask()
            assert answer.model_version == str(version)
            values = np.frombuffer(answer.raw_output_contents[0], np.float32)
            np.testing.assert_allclose(values, version, rtol=1e-5)
            assert await counts(server) == (answered, 0)
    server.put(identity(TensorProto.UINT8, (2,)), version=3)
    for failed in (1, 2):
        code, words = await refused(ask())
        assert (code, words) == ("INVALID_ARGUMENT", "inputs[0].name: expected one of input0, got 'frames'")
        assert await counts(server) == (0, failed)
    server.put(brightness(factor=4.0), version=4)
    assert (await ask()).model_version == "4"


async def test_a_swap_to_other_types_and_outputs(server):
    server.put(identity(TensorProto.UINT8, (2,)), version=1)
    assert len((await server.infer(TWO, raw=[b"ab"])).outputs) == 1
    node = helper.make_node("Cast", ["input0"], ["other"], to=TensorProto.INT64)
    twice = helper.make_node("Identity", ["input0"], ["output0"])
    graph = helper.make_graph(
        [node, twice],
        "both",
        [helper.make_tensor_value_info("input0", TensorProto.UINT8, (2,))],
        [
            helper.make_tensor_value_info("other", TensorProto.INT64, (2,)),
            helper.make_tensor_value_info("output0", TensorProto.UINT8, (2,)),
        ],
    )
    server.put(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), version=2)
    answer = await server.infer(TWO, raw=[b"ab"])
    assert [(output.name, output.datatype) for output in answer.outputs] == [("other", "INT64"), ("output0", "UINT8")]
    assert list(answer.raw_output_contents) == [np.array([97, 98]).tobytes(), b"ab"]


async def test_what_one_version_refuses_another_may_take(server, refused):
    server.put(identity(TensorProto.UINT8, (3,)), version=1)
    for _ in range(2):
        assert (await refused(server.infer(TWO, raw=[b"ab"])))[0] == "INVALID_ARGUMENT"
    server.put(identity(TensorProto.UINT8, (2,)), version=2)
    assert (await server.infer(TWO, raw=[b"ab"])).model_version == "2"


async def test_a_version_that_is_named(server, refused):
    for running, asked in ((1, 2), (2, 1), (1, 2)):
        server.put(identity(TensorProto.UINT8, (2,)), version=running)
        for _ in range(2):
            answer = await server.infer(TWO, raw=[b"ab"], model_version=str(running))
            assert answer.model_version == str(running)
            code, words = await refused(server.infer(TWO, raw=[b"ab"], model_version=str(asked)))
            assert code == "NOT_FOUND"
            assert f"version {asked}" in words
        assert await counts(server) == (2, 0)


async def test_a_model_that_is_unloaded(server, refused):
    server.put(identity(TensorProto.UINT8, (2,)), version=1)
    await server.infer(TWO, raw=[b"ab"])
    server.models.find("thing").unload()
    for _ in range(2):
        assert (await refused(server.infer(TWO, raw=[b"ab"])))[0] == "UNAVAILABLE"
    server.put(identity(TensorProto.UINT8, (2,)), version=2)
    assert (await server.infer(TWO, raw=[b"ab"])).model_version == "2"
    served = server.models.find("thing")
    assert (served.requests_answered, served.requests_failed) == (2, 0)


async def test_no_name_is_the_only_model_as_long_as_it_is_the_only_one(server, refused):
    server.put(identity(TensorProto.UINT8, (2,)))
    for _ in range(2):
        assert (await server.infer(TWO, raw=[b"ab"], name="")).model_name == "thing"
    server.put(identity(TensorProto.UINT8, (2,)), name="other")
    for _ in range(2):
        code, words = await refused(server.infer(TWO, raw=[b"ab"], name=""))
        assert (code, words.split(":")[0]) == ("INVALID_ARGUMENT", "model_name")
    assert (await server.infer(TWO, raw=[b"ab"], name="other")).model_name == "other"


async def test_each_has_its_own_id_and_tensors(server):
    server.put(identity(TensorProto.UINT8, (2,)))
    for identifier in ("a", "", "€", "i" * 300, "a"):
        raw = np.random.default_rng(len(identifier)).bytes(2)
        answer = await server.infer(TWO, raw=[raw], id=identifier)
        assert (answer.id, list(answer.raw_output_contents)) == (identifier, [raw])
    answers = await asyncio.gather(*(server.infer(TWO, raw=[bytes([n, 1])], id=str(n)) for n in range(50)))
    assert [(answer.id, answer.raw_output_contents[0][0]) for answer in answers] == [(str(n), n) for n in range(50)]


async def test_a_streams_answers_and_single_ones(server):
    """What only the answers of a stream have is in no others, though they have a head in common."""
    server.put(identity(TensorProto.UINT8, (2,)))
    single = await server.infer(TWO, raw=[b"ab"], id="1")

    async def requests():
        for identifier, raw in (("1", b"ab"), ("2", b"abc"), ("3", b"cd")):
            request = pb.ModelInferRequest(model_name="thing", id=identifier, raw_input_contents=[raw])
            request.inputs.add(name="input0", datatype="UINT8", shape=[2])
            yield request

    first, wrong, last = [answer async for answer in server.stub.ModelStreamInfer(requests())]
    assert "expected 2 bytes" in wrong.error_message
    assert wrong.infer_response == pb.ModelInferResponse(id="2")
    assert (last.infer_response.id, last.infer_response.raw_output_contents[0]) == ("3", b"cd")
    assert first.infer_response.parameters["triton_final_response"].bool_param
    del first.infer_response.parameters["triton_final_response"]
    assert first.infer_response == single == await server.infer(TWO, raw=[b"ab"], id="1")


async def test_each_may_be_wrong_by_itself_and_is_counted(server, refused):
    server.put(identity(TensorProto.UINT8, (2,), (2,)))
    inputs = TWO, ("input1", "UINT8", [2])
    good, right = [b"ab", b"cd"], 0
    wrong = {"expected 2 bytes": [b"ab", b"c"], "expected 2 entries": [b"ab"], "expected 2 elements, got 0": []}
    for failed, (words, raw) in enumerate(wrong.items(), 1):
        for _ in range(2):
            assert list((await server.infer(*inputs, raw=good)).raw_output_contents) == good
            right += 1
        assert words in (await refused(server.infer(*inputs, raw=raw)))[1]
        assert await counts(server) == (right, failed)
    served = server.models.find("thing")
    assert (served.requests_answered, served.requests_failed) == (right, len(wrong))


async def test_typed_contents_are_part_of_them(server, refused):
    server.put(identity(TensorProto.UINT8, (2,)))

    def typed(*values):
        return *TWO, {"contents": pb.InferTensorContents(uint_contents=values)}

    for values in ((1, 2), (3, 4), (1, 2)):
        assert (await server.infer(typed(*values))).raw_output_contents[0] == bytes(values)
    assert "none where raw_input_contents is given" in (await refused(server.infer(typed(1, 2), raw=[b"ab"])))[1]
    assert (await server.infer(TWO, raw=[b"ab"])).raw_output_contents[0] == b"ab"
    assert "256" in (await refused(server.infer(typed(1, 256))))[1]


@pytest.mark.parametrize("length", [10, 4000])
async def test_long_ones_are_answered_alike(server, length):
    server.put(identity(TensorProto.UINT8, (2,)))
    note = {"note": pb.InferParameter(string_param="x" * length)}
    for raw in (b"ab", b"cd"):
        answer = await server.infer(TWO, raw=[raw], id="1", parameters=note)
        assert (answer.id, answer.raw_output_contents[0]) == ("1", raw)
    server.put(identity(TensorProto.UINT8, (2,)), version=2)
    assert (await server.infer(TWO, raw=[b"ab"], parameters=note)).model_version == "2"


async def test_outputs_whose_shape_depends_on_what_comes_in(server):
    server.put(finder(TensorProto.INT64))
    for values in ([1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]):
        answer = await server.infer(("input0", "INT64", [4]), raw=[np.array(values).tobytes()])
        expected = np.flatnonzero(values)
        assert list(answer.outputs[0].shape) == [1, len(expected)]
        assert answer.raw_output_contents[0] == expected.tobytes()


async def test_two_services_know_nothing_of_each_other(server, closed_server):
    """In one process, with models of the same name."""
    server.put(brightness(factor=1.0), version=1)
    closed_server.put(brightness(factor=2.0), version=2)
    for _ in range(2):
        for served, version in ((server, 1), (closed_server, 2)):
            answer = await served.infer(("frames", "UINT8", [1, 4, 6, 3]), raw=[bytes([255] * 72)])
            assert answer.model_version == str(version)
            np.testing.assert_allclose(np.frombuffer(answer.raw_output_contents[0], np.float32), version, rtol=1e-5)


async def test_no_version_that_is_gone_is_kept_for_them(server):
    server.put(identity(TensorProto.UINT8, (2,)))
    await server.infer(TWO, raw=[b"ab"])
    running = server.models.find("thing").running
    freed, version, model = running.freed, ref(running), ref(running.model)
    del running
    server.loaded.clear()
    server.put(identity(TensorProto.UINT8, (2,)), version=2)
    await asyncio.wait_for(freed.wait(), 30)
    await asyncio.sleep(0)
    gc.collect()
    assert version() is None
    assert model() is None


async def test_a_model_that_is_over_at_once_needs_no_thread(server, refused, monkeypatch):
    node = helper.make_node("Gather", ["table", "input0"], ["output0"])
    graph = helper.make_graph(
        [node],
        "gather",
        [helper.make_tensor_value_info("input0", TensorProto.INT64, (1,))],
        [helper.make_tensor_value_info("output0", TensorProto.INT64, (1,))],
        [helper.make_tensor("table", TensorProto.INT64, [2], [10, 20])],
    )
    server.put(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    batcher = server.models.find("thing").running.batcher

    def ask(index, **fields):
        for _ in range(pace.PROOF):
            batcher._pace.learn((("input0", (1,)),), pace.QUICK_SECONDS / 2)
        return server.infer(("input0", "INT64", [1]), raw=[np.int64(index).tobytes()], **fields)

    with monkeypatch.context() as patched:
        patched.setattr(batcher, "_executor", None)
        timeout = {"timeout": pb.InferParameter(int64_param=60_000_000)}
        for index, fields in ((0, {}), (1, {"id": "7"}), (0, {"parameters": timeout})):
            answer = await ask(index, **fields)
            assert answer.id == fields.get("id", "")
            assert np.frombuffer(answer.raw_output_contents[0], np.int64) == 10 * (index + 1)
        assert await counts(server) == (3, 0)
        code, words = await refused(ask(9))
        assert code == "INTERNAL"
        assert "indices element out of data bounds" in words
    assert await counts(server) == (3, 1)
    answer = await server.infer(("input0", "INT64", [1]), raw=[np.int64(1).tobytes()])
    assert np.frombuffer(answer.raw_output_contents[0], np.int64) == 20


@pytest.fixture
def ask(server):
    """A function that has a request of these fields answered, without a socket; each time by the same head."""
    answering, parse = calls.Calls(server.models, Regions(None)), RequestParser().parse

    async def answer(caller="", **fields):
        request = pb.ModelInferRequest(model_name="thing", raw_input_contents=[b"ab"], **fields)
        request.inputs.add(name="input0", datatype="UINT8", shape=[2])
        return await answering.answer(parse(request.SerializeToString()), caller)

    return answer


async def test_each_has_its_own_caller_and_time_to_wait(server, ask, monkeypatch):
    server.put(identity(TensorProto.UINT8, (2,)))
    turns, times, submit = [], iter([1e9, 2e9, 3e9]), Batcher.submit_tensors

    def noted(self, *arguments, turn, **options):
        turns.append(turn)
        return submit(self, *arguments, turn=turn, **options)

    monkeypatch.setattr(Batcher, "submit_tensors", noted)
    monkeypatch.setattr(calls, "monotonic", lambda: next(times))
    urgent = {"priority": pb.InferParameter(int64_param=1), "timeout": pb.InferParameter(int64_param=60_000_000)}
    for caller in "ab":
        await ask(caller, parameters=urgent)
    for caller in "cd":
        await ask(caller)
    found = [(turn.caller, turn.priority, turn.deadline) for turn in turns]
    assert found == [("a", 1, 1e9 + 60), ("b", 1, 2e9 + 60), ("c", 0, None), ("d", 0, None)]


async def test_one_that_comes_during_a_swap_is_answered_by_the_version_it_came_to(server, ask):
    server.put(identity(TensorProto.UINT8, (2,)), version=1)
    await ask()
    served = server.models.find("thing")
    running, before = served.running, server.loaded[-1]
    with served._sessions._turns:  # the session is busy
        early = asyncio.create_task(ask(id="early"))
        await asyncio.sleep(0)
        server.put(identity(TensorProto.UINT8, (2,)), version=2)
        late = asyncio.create_task(ask(id="late"))
        await asyncio.sleep(0)
        assert not running.freed.is_set()
    answers = [pb.ModelInferResponse.FromString(answer.head) for answer in await asyncio.gather(early, late)]
    assert [answer.model_version for answer in answers] == ["1", "2"]
    await asyncio.wait_for(running.freed.wait(), 30)
    with pytest.raises(RuntimeError, match="closed"):
        before.run_rows([{"input0": np.zeros(2, np.uint8)}])


async def test_what_is_refused_before_a_version_is_held_counts_for_none(server, ask):
    server.put(identity(TensorProto.UINT8, (2,)), version=1)
    served = server.models.find("thing")
    await ask()
    with pytest.raises(VersionNotRunning):
        await ask(model_version="2")
    with pytest.raises(InvalidField):
        await ask(model_version="two")
    assert (served.requests_answered, served.requests_failed) == (1, 0)
    served.unload()
    with pytest.raises(ModelNotReady):
        await ask()
    assert (served.requests_answered, served.requests_failed) == (1, 0)


async def test_one_that_is_refused_while_the_queue_is_full_counts_and_gives_its_version_back(server, ask, monkeypatch):
    server.put(identity(TensorProto.UINT8, (2,)), version=1)
    await ask()
    served = server.models.find("thing")
    running = served.running

    def full(*_, **__):
        raise QueueFull("thing", 1)

    monkeypatch.setattr(Batcher, "submit_tensors", full)
    with pytest.raises(QueueFull):
        await ask()
    assert (served.requests_answered, served.requests_failed) == (1, 1)
    served.unload()
    await asyncio.wait_for(running.freed.wait(), 30)
