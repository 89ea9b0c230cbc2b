"""Pictures as parts of one response, however the bytes come."""

import io

import av
import numpy as np
import pytest

from inference_server.sources.multipart import Parts, boundary
from inference_server.sources.source import SourceLost


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("multipart/x-mixed-replace; boundary=frame", b"\r\n--frame"),
        ('Multipart/X-Mixed-Replace;boundary="--my frame"', b"\r\n--my"),
        ("multipart/x-mixed-replace", None),
        ("video/mp2t; boundary=frame", None),
        ("", None),
    ],
)
def test_the_separator_is_read_from_the_type(content_type, expected):
    assert boundary(content_type) == expected


BODIES = [b"first", b"\r\n\r\nsecond\r\n--fram", b"", b"third\r\n"]


def response(*, lengths):
    parts = b""
    for body in BODIES:
        length = b"content-length: %d\r\n" % len(body) if lengths else b""
        parts += b"\r\n--frame\r\nContent-Type: image/jpeg\r\n" + length + b"\r\n" + body
    return parts + b"\r\n--frame--\r\n"


@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_bodies_come_out_whole_however_they_are_cut(lengths, size):
    data, parts = response(lengths=lengths), Parts(b"\r\n--frame")
    out = b"".join(piece for at in range(0, len(data), size) for piece in parts.feed(data[at : at + size]))
    assert out == b"".join(BODIES)


def test_headers_without_an_end_are_not_kept_for_ever():
    parts = Parts(b"\r\n--frame")
    with pytest.raises(SourceLost):
        list(parts.feed(b"x" * 10_000))


async def test_a_camera_that_sends_pictures_is_read(server, http, read_source):
    pictures = []
    for index in range(12):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mjpeg") as output:
            stream = output.add_stream("mjpeg", rate=25)
            stream.width, stream.height, stream.pix_fmt = 160, 96, "yuvj420p"
            frame = av.VideoFrame.from_ndarray(np.full((96, 160, 3), index * 20, np.uint8))
            output.mux(stream.encode(frame.reformat(format="yuvj420p")))
            output.mux(stream.encode(None))
        pictures.append(buffer.getvalue())
    head = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=cam\r\n\r\n"
    parts = b"".join(
        b"--cam\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(p), p) for p in pictures
    )
    server.scripts = [head + parts]
    seen = await read_source(server.url)
    assert seen.indices == list(range(12))
    assert all(frame.wall_clock for frame in seen.frames)
