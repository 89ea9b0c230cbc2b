"""Requests and answers on the wire: protobuf's bytes, with the tensors left where they are."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from videoai.open_inference.v2 import open_inference_pb2 as pb

from inference_server.tensors.messages import (
    InferResponse,
    RequestParser,
    StreamResponse,
    serialise_response,
    serialise_stream_response,
)

raws = st.lists(st.binary(max_size=300), max_size=4)
texts = st.text(max_size=20)
parse_request = RequestParser().parse


@given(texts, texts, raws, st.lists(st.integers(0, 1 << 62), max_size=3))
def test_a_request_is_what_protobuf_reads(name, identifier, raw, shape):
    message = pb.ModelInferRequest(model_name=name, id=identifier, raw_input_contents=raw)
    message.inputs.add(name=name, shape=shape).contents.fp32_contents.extend([1, 2])
    message.parameters["priority"].uint64_param = 3
    request = parse_request(message.SerializeToString())
    assert [bytes(part) for part in request.raw] == raw
    assert request.id == identifier
    del message.raw_input_contents[:]
    message.id = ""
    assert request.head.message == message


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_protobuf_reads_them_or_refused(content):
    try:
        expected = pb.ModelInferRequest.FromString(content)
    except DecodeError:
        with pytest.raises(DecodeError):
            parse_request(content)
        return
    try:
        request = parse_request(content)
    except DecodeError:
        return  # groups, and tensors that are no bytes, which nobody sends
    assert [bytes(part) for part in request.raw] == list(expected.raw_input_contents)


@given(texts, raws, texts)
def test_an_answer_is_what_protobuf_writes(name, raw, error):
    head = pb.ModelInferResponse(model_name=name).SerializeToString()
    whole = pb.ModelInferResponse(model_name=name, id="7", raw_output_contents=raw)
    response = InferResponse(head, "7", raw)
    assert pb.ModelInferResponse.FromString(serialise_response(response)) == whole
    streamed = pb.ModelStreamInferResponse.FromString(serialise_stream_response(StreamResponse(response, error)))
    assert streamed == pb.ModelStreamInferResponse(error_message=error, infer_response=whole)


def test_unknown_fields_are_passed_over():
    extra = b"\xa0\x06\x05" + b"\xa5\x06" + bytes(4) + b"\xa1\x06" + bytes(8) + b"\xa2\x06\x01x"
    request = parse_request(pb.ModelInferRequest(model_name="a", raw_input_contents=[b"b"]).SerializeToString() + extra)
    assert (request.head.message.model_name, [bytes(part) for part in request.raw]) == ("a", [b"b"])


def test_a_tensor_stays_in_the_bytes_that_were_received():
    """No copy between the socket's bytes and the session: see docs/tensors.md."""
    content = pb.ModelInferRequest(raw_input_contents=[bytes(1000)]).SerializeToString()
    (raw,) = parse_request(content).raw
    assert raw.obj is content
    assert np.shares_memory(np.frombuffer(raw, np.uint8), np.frombuffer(content, np.uint8))
