"""Addresses of sources: what is taken, what is refused, and what is never shown."""

import pytest

from inference_server.errors import InvalidField
from inference_server.sources.uris import FileUri, NetworkUri, parse


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///videos/a.mp4", "/videos/a.mp4"),
        ("file:/videos/a.mp4", "/videos/a.mp4"),
        ("file://localhost/videos/a%20b.mp4", "/videos/a b.mp4"),
        ("file:///videos/%C3%A9.mp4", "/videos/é.mp4"),
        ("file:///videos/..a/.b", "/videos/..a/.b"),
    ],
)
def test_files(uri, path):
    assert parse(uri) == FileUri(path)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://Cam.example/live.ts", NetworkUri("http", "cam.example", 80, "/live.ts")),
        ("HTTPS://cam.example:8443/a?b=c#d", NetworkUri("https", "cam.example", 8443, "/a?b=c")),
        ("rtsp://cam.example./", NetworkUri("rtsp", "cam.example", 554, "/")),
        ("rtsps://[2001:DB8::1]", NetworkUri("rtsps", "2001:db8::1", 322, "/")),
        ("rtsp://me:p%40ss@10.0.0.7:8554/x", NetworkUri("rtsp", "10.0.0.7", 8554, "/x", "me", "p@ss")),
        ("rtsp://me@cam/x", NetworkUri("rtsp", "cam", 554, "/x", "me")),
    ],
)
def test_hosts(uri, expected):
    assert parse(uri) == expected


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "video.mp4",
        "/videos/a.mp4",
        "ftp://host/a",
        "concat:file:///a|file:///b",
        "file://otherhost/a",
        "file:///a?b",
        "file:a/b",
        "file:///videos/../etc/passwd",
        "file:///videos/%2e%2e/etc/passwd",
        "file:///a%00b",
        "file:///a%ff",
        "http:///a",
        "http://host:0/a",
        "http://host:65536/a",
        "http://host:x/a",
        "http://[::1/a",
        "http://a\\@b/",
        "http://ho st/a",
        "http://host/a\nHost: b",
        "http://h\u00f6st/",
        "http://ho%73t/",
        "http://-/" + "a" * 5000,
    ],
)
def test_malformed_addresses_are_refused_by_name(uri):
    with pytest.raises(InvalidField) as raised:
        parse(uri)
    assert raised.value.field == "uri"
    assert str(raised.value).startswith("uri: expected ")


def test_credentials_path_and_query_are_never_shown():
    uri = parse("rtsp://root:secret@cam:8554/user=root_password=secret?token=secret")
    assert "secret" not in repr(uri)
    assert str(uri) == "rtsp://cam:8554"
    for wrong in ("http://root:secret@host:x/secret", "httq://root:secret@host/secret", "http://root:sec ret@host/"):
        with pytest.raises(InvalidField) as raised:
            parse(wrong)
        assert "sec" not in str(raised.value)
