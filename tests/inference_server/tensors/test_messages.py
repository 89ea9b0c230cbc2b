"""Requests and answers on the wire: protobuf's bytes, with the tensors left where they are."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from videoai.open_inference.v2 import open_inference_pb2 as pb

from inference_server.tensors.messages import (
    MAX_HEAD_BYTES,
    MAX_HEADS,
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


@given(texts, raws, texts)
def test_an_answer_is_what_protobuf_writes(name, raw, error):
    head = pb.ModelInferResponse(model_name=name).SerializeToString()
    whole = pb.ModelInferResponse(model_name=name, id="7", raw_output_contents=raw)
    response = InferResponse(head, "7", raw)
    assert pb.ModelInferResponse.FromString(serialise_response(response)) == whole
    streamed = pb.ModelStreamInferResponse.FromString(serialise_stream_response(StreamResponse(response, error)))
    assert streamed == pb.ModelStreamInferResponse(error_message=error, infer_response=whole)


def number(value, size=1):
    """A number as protobuf writes it, in `size` bytes or more, though it may need fewer."""
    encoded = bytearray()
    while value > 127 or len(encoded) + 1 < size:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


sizes = st.integers(1, 6)


@st.composite
def fields(draw):
    """A field of a request, or one of its number and another kind, in any form that protobuf may read."""
    key, value = draw(
        st.one_of(
            st.tuples(st.sampled_from([1, 2, 3, 7]), st.binary(max_size=4)),
            st.tuples(st.just(3), texts.map(str.encode)),
            st.tuples(st.just(5), st.just(pb.ModelInferRequest.InferInputTensor(name="a").SerializeToString())),
        )
    )
    other = draw(st.sampled_from(["", "", "", "number", "fixed"]))
    if other:
        return number(key << 3 | (0 if other == "number" else 5), draw(sizes)) + (
            number(9, draw(sizes)) if other == "number" else bytes(4)
        )
    return number(key << 3 | 2, draw(sizes)) + number(len(value), draw(sizes)) + value


@given(st.binary(max_size=60) | st.lists(fields(), max_size=6).map(b"".join))
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
    assert request.id == expected.id
    del expected.raw_input_contents[:]
    expected.id = ""
    assert request.head.message.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


def test_fields_may_come_in_any_order_and_in_longer_forms_than_they_need():
    content = number(7 << 3 | 2, 5) + number(1, 5) + b"x" + number(3 << 3 | 2, 2) + number(1, 2) + b"7"
    content += number(1 << 3 | 2, 3) + number(1, 3) + b"a" + b"\x1a\x018" + b"\x3a\x01y"
    request = parse_request(content)
    assert (request.head.message, request.id) == (pb.ModelInferRequest(model_name="a"), "8")
    assert [bytes(raw) for raw in request.raw] == [b"x", b"y"]


@pytest.mark.parametrize("identifier", [b"\xff", b"\xed\xa0\x80"])
def test_an_id_that_is_no_text_is_refused(identifier):
    with pytest.raises(DecodeError):
        parse_request(number(3 << 3 | 2) + number(len(identifier)) + identifier)


def test_requests_that_differ_in_id_and_tensors_have_one_head():
    parse = RequestParser().parse

    def request(**fields):
        return parse(pb.ModelInferRequest(model_name="a", **fields).SerializeToString())

    first, second = request(id="1", raw_input_contents=[b"x"]), request(id="2", raw_input_contents=[b"y", b"z"])
    assert first.head is second.head is request().head
    assert (first.id, [bytes(raw) for raw in first.raw]) == ("1", [b"x"])
    assert (second.id, [bytes(raw) for raw in second.raw]) == ("2", [b"y", b"z"])
    assert request(model_version="1").head is not first.head
    assert RequestParser().parse(b"\x0a\x01a").head is not first.head


def test_long_heads_are_not_kept():
    parse = RequestParser().parse
    for size, kept in ((MAX_HEAD_BYTES, True), (MAX_HEAD_BYTES + 1, False)):
        content = pb.ModelInferRequest(model_name="a" * (size - 3)).SerializeToString()
        assert len(content) == size
        one, other = parse(content + b"\x1a\x011"), parse(content + b"\x1a\x012")
        assert (one.head is other.head) is kept
        assert one.head.message == other.head.message
        assert (one.id, other.id) == ("1", "2")


def test_only_the_last_heads_are_kept():
    parse = RequestParser().parse

    def head(name):
        return parse(pb.ModelInferRequest(model_name=name).SerializeToString()).head

    first, second = head("first"), head("second")
    for other in range(MAX_HEADS - 1):
        assert head("second") is second, other
        head(str(other))
    assert head("second") is second
    assert head("first") is not first


def test_bytes_that_are_no_request_are_refused_each_time():
    parse = RequestParser().parse
    for _ in range(2):
        with pytest.raises(DecodeError):
            parse(b"\x0a\x01\xff")


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
