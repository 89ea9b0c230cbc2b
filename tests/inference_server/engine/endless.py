"""A sound model that takes the age of the universe to answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_endless(path: Path) -> None:
    """A loop that adds 1 to its input, 2⁶² times."""

    def value(name: str, kind: int = TensorProto.FLOAT, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still_on"]), helper.make_node("Add", ["sum", "one"], ["more"])],
        "again",
        [value("turn", TensorProto.INT64), value("on", TensorProto.BOOL), value("sum", TensorProto.FLOAT, 1)],
        [value("still_on", TensorProto.BOOL), value("more", TensorProto.FLOAT, 1)],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)],
        "endless",
        [value("x", TensorProto.FLOAT, 1)],
        [value("y", TensorProto.FLOAT, 1)],
        [numpy_helper.from_array(np.array(1 << 62, np.int64), "turns")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
