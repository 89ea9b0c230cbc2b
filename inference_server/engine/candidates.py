"""Puts the choice of anchors that may matter behind a head that gives thousands: hundreds of rows leave the device.

The graph keeps the output that it had, and gets three more: the columns of the anchors whose best class scores highest,
which anchors these are, and those scores. Nothing is rounded or decided: the values are those of the output, and
whoever reads them applies the threshold. Where more anchors may pass it than were chosen, the output itself is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from inference_server.detection import AnchorRows
from inference_server.engine.additions import Additions

COLUMNS, ANCHORS, SCORES = (f"videoai_candidates/{what}" for what in ("columns", "anchors", "scores"))
OUTPUTS = (COLUMNS, ANCHORS, SCORES)
MOST = 512
# Since the one opset the operators used here take what they take today, but for ReduceMax: its axes are an input since
# the other.
LEAST_OPSET, AXES_ARE_INPUTS = 13, 18


def add_candidates(model: ModelProto, head: AnchorRows, opset: int, most: int = MOST) -> bool:
    """Add outputs of `head`'s best anchors, best first: COLUMNS (batch, rows, k), ANCHORS int64 (batch, k), and SCORES
    float32 (batch, k), that of each one's best class; -1 if that is no number.

    Says whether it did: the graph may be too old, give its anchors another way, or have no more than `most`.
    """
    output = next((value for value in model.graph.output if value.name == head.output_name), None)
    dimensions = [] if output is None else output.type.tensor_type.shape.dim
    if opset < LEAST_OPSET or len(dimensions) != 3 or dimensions[2].dim_value <= most:
        return False
    given = Additions(model.graph, "videoai_candidates")
    scores = given.node("Slice", head.output_name, [head.first], [head.last], [1])
    if opset < AXES_ARE_INPUTS:
        best = given.node("ReduceMax", scores, axes=[1], keepdims=0)
    else:
        best = given.node("ReduceMax", scores, [1], keepdims=0)
    best = given.node("Cast", best, to=TensorProto.FLOAT)
    # What is no number passes no threshold, and would have no place in an order.
    best = given.node("Where", given.node("IsNaN", best), np.array(-1, np.float32), best)
    given.node("TopK", best, [most], results=[SCORES, ANCHORS], axis=1, largest=1, sorted=1)
    rows = given.node("Slice", given.node("Shape", head.output_name), [0], [2], [0])
    shape = given.node("Concat", rows, [most], axis=0)
    anchors = given.node("Expand", given.node("Unsqueeze", ANCHORS, [1]), shape)
    given.node("GatherElements", head.output_name, anchors, results=[COLUMNS], axis=2)
    model.graph.node.extend(given.nodes)
    kind = output.type.tensor_type.elem_type if output is not None else TensorProto.FLOAT
    model.graph.output.append(helper.make_tensor_value_info(COLUMNS, kind, [None, None, most]))
    model.graph.output.append(helper.make_tensor_value_info(ANCHORS, TensorProto.INT64, [None, most]))
    model.graph.output.append(helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, [None, most]))
    return True


def passing(
    columns: NDArray[Any], anchors: NDArray[np.int64], scores: NDArray[np.float32], threshold: float
) -> NDArray[Any] | None:
    """Of one frame's best anchors, (rows, k), (k,) and (k,), those columns that can pass `threshold`, in the anchors'
    order.

    None where anchors that were not chosen can pass it too: the least of the chosen does.
    """
    # They are in order, so that those that pass are the first; most of what was chosen mostly does not.
    count = np.count_nonzero(scores > threshold)
    return None if count == len(scores) else columns.take(np.argsort(anchors[:count]), axis=1)
