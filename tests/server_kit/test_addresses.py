import pytest

from server_kit.addresses import parse_address


@pytest.mark.parametrize(
    "text", ["127.0.0.1:0", "localhost:50051", "[::1]:8080", "unix:/run/videoai.sock", "unix:a.sock"]
)
def test_an_address_reads_back_as_it_was_written(text):
    assert parse_address(text).target == text


@pytest.mark.parametrize(
    "text", ["", "localhost", ":50051", "localhost:", "localhost:http", "localhost:65536", "::1:80", "unix:"]
)
def test_what_is_not_an_address_is_refused_with_what_was_expected(text):
    with pytest.raises(ValueError, match="expected"):
        parse_address(text)
