"""Every datatype of the protocol, raw and typed."""

import ml_dtypes
import numpy as np
import pytest

from inference_server.tensors.datatypes import BY_DTYPE, DATATYPES

VALUES = {
    "BOOL": [True, False, True],
    "UINT8": [0, 255, 7],
    "UINT16": [0, 65535, 7],
    "UINT32": [0, 2**32 - 1, 7],
    "UINT64": [0, 2**64 - 1, 7],
    "INT8": [-128, 127, 0],
    "INT16": [-32768, 32767, 0],
    "INT32": [-(2**31), 2**31 - 1, 0],
    "INT64": [-(2**63), 2**63 - 1, 0],
    "FP16": [-1.5, 65504.0, 0.0],
    "FP32": [-1.5, 3e38, 0.0],
    "FP64": [-1.5, 1e308, 0.0],
}


def test_there_is_one_type_of_the_engine_for_each():
    assert len(BY_DTYPE) == len(DATATYPES) == 14


@pytest.mark.parametrize("name", VALUES)
def test_numbers_are_the_bytes_that_numpy_has(name):
    datatype = DATATYPES[name]
    array = np.array(VALUES[name], datatype.dtype)
    assert bytes(datatype.to_raw(array.reshape(3, 1))) == array.tobytes()
    np.testing.assert_array_equal(datatype.from_raw(array.tobytes(), 3), array)
    assert datatype.from_raw(array.tobytes(), 3).dtype == array.dtype


@pytest.mark.parametrize("name", [name for name in VALUES if name != "FP16"])
def test_typed_elements(name):
    datatype = DATATYPES[name]
    array = datatype.from_contents(VALUES[name], 3)
    assert array.dtype == datatype.dtype
    np.testing.assert_array_equal(array, np.array(VALUES[name], datatype.dtype))
    assert datatype.from_contents([], 0).dtype == datatype.dtype


@pytest.mark.parametrize(("name", "value"), [("INT8", 128), ("INT16", -32769), ("UINT8", 256), ("UINT16", 65536)])
def test_a_typed_element_that_is_too_large(name, value):
    with pytest.raises(ValueError, match=f"values of {name}, got {value}"):
        DATATYPES[name].from_contents([0, value], 2)


def test_bfloat16_keeps_its_bits():
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = DATATYPES["BF16"].from_raw(bits.tobytes(), len(bits))
    np.testing.assert_array_equal(wide, bits.view(ml_dtypes.bfloat16).astype(np.float32))
    assert bytes(DATATYPES["BF16"].to_raw(wide)) == bits.tobytes()


def test_text():
    datatype = DATATYPES["BYTES"]
    raw = b"\x03\x00\x00\x00abc\x00\x00\x00\x00\x03\x00\x00\x00\xe2\x82\xac"
    assert datatype.from_raw(raw, 3).tolist() == ["abc", "", "€"]
    assert datatype.from_contents([b"abc", b""], 2).tolist() == ["abc", ""]
    assert datatype.to_raw(np.array([["abc", ""], ["€", "b"]], object)) == raw + b"\x01\x00\x00\x00b"


@pytest.mark.parametrize(
    ("raw", "count", "words"),
    [
        (b"\x03\x00\x00", 1, "1 elements, each 4 bytes of its length and its bytes, got 3 bytes"),
        (b"\x03\x00\x00\x00ab", 1, "as many bytes as the length of element 0 says"),
        (b"\xff\xff\xff\xffab", 1, "as many bytes as the length of element 0 says"),
        (b"\x01\x00\x00\x00ab", 1, "1 elements in 5 bytes, got 6 bytes"),
        (b"\x02\x00\x00\x00ab\x00\x00", 2, "got 1 and a part"),
        (b"\x01\x00\x00\x00\xff", 1, "text in UTF-8"),
    ],
)
def test_text_that_is_broken(raw, count, words):
    with pytest.raises(ValueError, match=words):
        DATATYPES["BYTES"].from_raw(raw, count)


def test_numbers_lie_where_the_runtime_can_read_them():
    content = bytes(3) + np.arange(4, dtype=np.float32).tobytes()
    array = DATATYPES["FP32"].from_raw(memoryview(content)[3:], 4)
    assert array.flags.aligned
    assert array.tolist() == [0, 1, 2, 3]


def test_bytes_are_neither_copied_in_nor_out():
    """See docs/tensors.md for where copies are made."""
    content = bytes(100)
    array = DATATYPES["UINT8"].from_raw(memoryview(content)[7:], 93)
    assert np.shares_memory(array, np.frombuffer(content, np.uint8))
    out = DATATYPES["UINT8"].to_raw(array.reshape(31, 3))
    assert np.shares_memory(np.frombuffer(out, np.uint8), array)


@pytest.mark.parametrize("count", [2, 2**31, 2**40, 2**63 - 1])
def test_no_room_is_made_for_text_that_is_only_claimed(count):
    with pytest.raises(ValueError, match=f"{count} elements, each 4 bytes of its length and its bytes, got 5 bytes"):
        DATATYPES["BYTES"].from_raw(b"\x01\0\0\0a", count)
