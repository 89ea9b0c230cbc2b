"""The parts of reading RTSP by themselves: messages, descriptions, passwords, packets, pictures."""

from __future__ import annotations

import base64
import random

import pytest
from rtsp_server import report, rtp

from inference_server.sources.rtsp.auth import Credentials
from inference_server.sources.rtsp.jpeg import Jpeg
from inference_server.sources.rtsp.messages import Incoming, Malformed, Message, Packet
from inference_server.sources.rtsp.pictures import H264, H265, Mpeg4
from inference_server.sources.rtsp.receiver import ENCODINGS, Receiver
from inference_server.sources.rtsp.rtp import Reports, Timeline, read_packet
from inference_server.sources.rtsp.sdp import Media, parse

START = b"\0\0\0\1"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_messages_and_packets_come_apart_however_they_are_cut(size):
    stream = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 3\r\n\r\nabc$\1\0\2hi\r\n"
    stream += b"OPTIONS * RTSP/1.0\r\nCSeq: 9\r\n\r\n$\0\0\0"
    incoming = Incoming()
    items = [item for at in range(0, len(stream), size) for item in incoming.feed(stream[at : at + size])]
    answer, packet, request, empty = items
    assert isinstance(answer, Message)
    assert isinstance(request, Message)
    assert (answer.status, answer.get("cseq"), answer.body) == (200, "1", b"abc")
    assert (packet, empty) == (Packet(1, b"hi"), Packet(0, b""))
    assert (request.status, request.get("cseq")) == (None, "9")


@pytest.mark.parametrize("length", ["9" * 5000, "99999999", "-1", "\xb2", "1_0"])
def test_a_length_that_is_none_is_malformed(length):
    with pytest.raises(Malformed):
        list(Incoming().feed(f"RTSP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n".encode("latin-1")))


def test_a_payload_type_that_is_none_is_left_out():
    assert parse(f"m=video 0 RTP/AVP {'9' * 5000}\nm=video 0 RTP/AVP 26\n").pictures == [Media(26, "JPEG")]


def test_a_description_says_what_pictures_there_are():
    text = (
        "v=0\na=control:*\na=range:npt=now-\nm=audio 0 RTP/AVP 97\na=control:a\na=rtpmap:97 H264/1\n"
        "m=video 0 RTP/AVP 26\na=x-dimensions:2592,1944\nm=video 0 RTP/AVP 98 99\na=rtpmap:99 H265/1\n"
        "a=rtpmap:98 h264/90000\na=fmtp:98 packetization-mode=1; sprop-parameter-sets=Z0I=,aM4=\na=control:v\n"
    )
    description = parse(text)
    jpeg, video = description.pictures
    assert (description.control, description.finite) == ("*", False)
    assert (jpeg.encoding, jpeg.size) == ("JPEG", (2592, 1944))
    assert (video.payload_type, video.encoding, video.clock_rate, video.control) == (98, "H264", 90_000, "v")
    assert video.parameters == {"packetization-mode": "1", "sprop-parameter-sets": "Z0I=,aM4="}
    assert parse("a=range:npt=0-12.5").finite
    assert parse("a=range:clock=20260101T000000Z-20260101T001000Z").finite


def test_the_digest_of_the_standard_is_answered(monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda _: "0a4f113b")
    credentials = Credentials("Mufasa", "Circle Of Life")
    challenge = 'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"'
    assert credentials.challenged(["Basic realm=x", challenge])
    answer = credentials.header("GET", "/dir/index.html")["Authorization"]
    assert 'response="6629fae49393a05397450978507c4ef1"' in answer  # RFC 2617, section 3.5
    assert not credentials.challenged([challenge])
    assert credentials.challenged([challenge + ", stale=true"])


def test_basic_is_answered_where_nothing_else_is_asked_for():
    credentials = Credentials("me", "secret")
    assert credentials.header("OPTIONS", "*") == {}
    assert credentials.challenged(['Basic realm="x"'])
    assert credentials.header("OPTIONS", "*") == {"Authorization": "Basic " + base64.b64encode(b"me:secret").decode()}
    assert not credentials.challenged(['Basic realm="x"'])
    assert not Credentials("me", "secret").challenged(["Negotiate"])


def test_packets_may_have_sources_extensions_and_padding():
    head = bytes((0b10110001, 0xE0)) + b"\0\7" + b"\0\0\0\5" + 4 * b"s" + 4 * b"c" + b"xx\0\1" + b"wwww"
    packet = read_packet(head + b"payload" + b"\0\0\3")
    assert packet is not None
    assert (packet.payload, packet.marker, packet.sequence, packet.timestamp) == (b"payload", True, 7, 5)


def test_time_goes_on_where_timestamps_wrap_or_leap():
    timeline = Timeline(90_000)
    timeline.report(Reports(time=1000.0, timestamp=2**32 - 900))
    assert timeline.ticks(2**32 - 900) == 0
    assert timeline.clock == 1000.0
    assert timeline.ticks(8100) == 9000
    assert timeline.ticks(8100 + 2**31 - 1) == 9001
    assert timeline.clock is None


def test_h264_comes_alone_together_and_in_fragments():
    pictures = H264(Media(96, parameters={"sprop-parameter-sets": "Z0I=,aM4="}))
    pictures.add(b"\x18\0\2\x06\x05\0\3\x65ab")
    assert pictures.take() == (START + b"gB" + START + b"h\xce" + START + b"\x06\x05" + START + b"eab", True)
    for flags, part in ((0x81, b"one"), (0x01, b"two"), (0x41, b"three")):
        pictures.add(bytes((0x7C, flags)) + part)
    assert pictures.take() == (START + b"\x61onetwothree", False)
    pictures.add(b"\x7c\x81one")
    pictures.lose()
    pictures.add(b"\x7c\x41three")
    assert pictures.take() is None


def test_parameter_sets_under_a_marker_of_their_own_wait_for_their_picture():
    pictures = H264(Media(96))
    pictures.add(b"gB")
    assert pictures.take() is None
    pictures.add(b"eab")
    assert pictures.take() == (START + b"gB" + START + b"eab", True)


def test_h265_comes_alone_together_and_in_fragments():
    pictures = H265(Media(96, parameters={"sprop-vps": "QAE=", "sprop-sps": "QgE=", "sprop-pps": "RAE="}))
    for flags, part in ((0x93, b"one"), (0x53, b"two")):
        pictures.add(b"\x62\1" + bytes((flags,)) + part)
    sets = START + b"\x40\1" + START + b"\x42\1" + START + b"\x44\1"
    assert pictures.take() == (sets + START + b"\x26\1onetwo", True)
    pictures.add(b"\x60\1\0\3\x02\1a\0\3\x02\1b")
    assert pictures.take() == (START + b"\x02\1a" + START + b"\x02\1b", False)


def test_mpeg4_begins_with_its_configuration():
    pictures = Mpeg4(Media(96, parameters={"config": "000001b0"}))
    pictures.add(b"\0\0\1\xb6\x10")
    assert pictures.take() == (b"\0\0\1\xb0\0\0\1\xb6\x10", True)
    pictures.add(b"\0\0\1\xb6\x50")
    assert pictures.take() == (b"\0\0\1\xb6\x50", False)


def test_tables_of_jpeg_are_kept_and_a_missing_part_costs_the_picture():
    pictures = Jpeg(Media(26))
    head = b"\0\0\0\0\1\xff\x14\x0c"
    pictures.add(b"\0\0\0\0\1\x80\x14\x0c" + b"\0\0\0\x80" + bytes(range(128)) + b"data")
    first = pictures.take()
    assert first is not None
    assert first[0].startswith(b"\xff\xd8\xff\xdb")
    assert first[0].endswith(b"data\xff\xd9")
    pictures.add(b"\0\0\0\0\1\x80\x14\x0c" + b"\0\0\0\0" + b"data")
    assert pictures.take() == first
    pictures.add(b"\0\0\0\0\1\x80\x14\x0c" + b"\0\0\0\0" + b"data")
    pictures.add(b"\0\0\0\x09" + head[4:] + b"more")
    assert pictures.take() is None
    pictures.add(b"\0\0\0\x09" + head[4:] + b"end")
    pictures.lose()
    pictures.add(b"\0\0\0\0\1\x80\x14\x0c" + b"\0\0\0\0" + b"data")
    assert pictures.take() == first
    pictures.add(head + b"\0\0\0\0" + b"data")  # tables that never came
    assert pictures.take() is None


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_nonsense_breaks_nothing(encoding):
    """The server reads these bytes itself, so whatever comes, it drops what it cannot use and goes on."""
    chance = random.Random(encoding)  # noqa: S311 - no secret
    receiver = Receiver(Media(96, encoding))
    for number in range(5000):
        payload = chance.randbytes(chance.randrange(40))
        packet = rtp(payload, number, number // 3 * 3000, marker=number % 3 == 2)
        if chance.random() < 0.3:
            packet = bytes((packet[0] ^ chance.randrange(64),)) + packet[1 : chance.randrange(1, 60)]
        receiver.feed(packet)
        receiver.control(chance.randbytes(chance.randrange(60)))
    receiver.control(report(2e9, 5))
    assert receiver.clock is None or receiver.clock > 0
