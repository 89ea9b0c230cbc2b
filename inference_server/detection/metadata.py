"""What an exporter wrote into a model file's metadata: text that looks like Python literals, and is only ever read."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from inference_server.errors import ModelRefused

# Far above any real list of classes, and small enough to be parsed at once.
MAX_LENGTH = 1 << 20
MAX_CLASSES = 65_536
MAX_SIDE = 8192
MAX_KEYPOINTS = 1024
# A dictionary or list of plain values is nested once; the parser is spared anything deeper.
MAX_OPEN_BRACKETS = 3

# Strings, ended or not: each character is looked at once, whatever the text.
_STRINGS = re.compile(r"""'(?:[^'\\]|\\.)*+\\?(?:'|\Z)|"(?:[^"\\]|\\.)*+\\?(?:"|\Z)""", re.DOTALL)
# What is left of a dictionary or list of strings and numbers without its strings: no names, calls or operators.
_PLAIN = re.compile(r"(?:[\s,:()\[\]{}]|\d++(?:\.\d*+)?(?:e-?\d++)?|True|False|None)*+")


def read_class_names(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """The classes under 'names', in the order of their ids; None without that key. Raises ModelRefused."""
    if "names" not in metadata:
        return None
    value = _literal(metadata, "names")
    if isinstance(value, dict):
        if sorted(value, key=str) != sorted(range(len(value)), key=str):
            raise _malformed("names", "class ids 0, 1, 2, … without a gap", list(value)[:5])
        value = [value[index] for index in range(len(value))]
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise _malformed("names", "a dictionary or list of class names", value)
    if not 1 <= len(value) <= MAX_CLASSES:
        raise _malformed("names", f"1..{MAX_CLASSES} classes", f"{len(value)} classes")
    return tuple(value)


def read_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Height and width in pixels under 'imgsz'; None where the file has no such key. Raises ModelRefused."""
    if "imgsz" not in metadata:
        return None
    value = _literal(metadata, "imgsz")
    sides = [value, value] if isinstance(value, int) else value
    if not (isinstance(sides, list | tuple) and len(sides) == 2 and all(type(side) is int for side in sides)):
        raise _malformed("imgsz", "[height, width] in pixels", value)
    if not all(1 <= side <= MAX_SIDE for side in sides):
        raise _malformed("imgsz", f"sides of 1..{MAX_SIDE} pixels", value)
    return sides[0], sides[1]


def read_keypoint_shape(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """How many keypoints and numbers for each, under 'kpt_shape'; None without that key. Raises ModelRefused."""
    if "kpt_shape" not in metadata:
        return None
    value = _literal(metadata, "kpt_shape")
    if not (isinstance(value, list | tuple) and len(value) == 2 and all(type(part) is int for part in value)):
        raise _malformed("kpt_shape", "[keypoints, numbers for each]", value)
    if not 1 <= value[0] <= MAX_KEYPOINTS or value[1] not in (2, 3):
        raise _malformed("kpt_shape", f"[1..{MAX_KEYPOINTS}, 2 or 3]", value)
    return value[0], value[1]


def says_selected(metadata: Mapping[str, str]) -> bool | None:
    """Whether the graph chooses the objects itself: end to end, or with suppression in it (`nms=True`).

    None where the file does not say; versions of Ultralytics before 8.4 did not.
    """
    end_to_end, arguments = (_lenient(metadata, key) for key in ("end2end", "args"))
    if end_to_end is True or (isinstance(arguments, dict) and arguments.get("nms") is True):
        return True
    return False if end_to_end is False else None


def of_rtdetr(metadata: Mapping[str, str]) -> bool:
    """Whether the file is an RT-DETR by Ultralytics, which is called a detector like its others but laid out unlike."""
    about = metadata.get("description", "").lower().replace("-", "")
    return metadata.get("head") == "RTDETRDecoder" or "rtdetr" in about


def _lenient(metadata: Mapping[str, str], key: str) -> Any:
    """A key that tells nothing where it is missing or not understood."""
    try:
        return _literal(metadata, key) if key in metadata else None
    except ModelRefused:
        return None


def _literal(metadata: Mapping[str, str], key: str) -> Any:
    text = metadata[key]
    if len(text) > MAX_LENGTH:
        raise _malformed(key, f"at most {MAX_LENGTH} characters", f"{len(text)} characters")
    bare = _STRINGS.sub("", text)
    if not _PLAIN.fullmatch(bare) or sum(map(bare.count, "([{")) > MAX_OPEN_BRACKETS:
        raise _malformed(key, "a list or dictionary of plain values", text)
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise _malformed(key, "a Python literal", text) from None


def _malformed(key: str, expected: str, got: object) -> ModelRefused:
    shown = got if isinstance(got, str) else repr(got)
    return ModelRefused(f"the file's metadata key {key!r}: expected {expected}, got {shown[:100]}")
