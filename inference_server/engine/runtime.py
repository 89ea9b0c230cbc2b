"""ONNX Runtime, which all of the engine takes from here: it is not to tell anybody what runs on it.

From 1.29 on it reports to its maker by default, on Linux too: an identifier of the machine, and of each model the name
of its file, its producer and digests. It decides that as its library is loaded, by a variable of the environment; who
sets that decides, and else it stays silent.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # type: ignore[import-untyped]
from onnxruntime.capi import onnxruntime_pybind11_state as state  # type: ignore[import-untyped]

__all__ = ["onnxruntime", "state"]
