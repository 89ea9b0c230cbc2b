"""Small models for tests of the tensor path."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def identity(dtype, *shapes):
    """A model that gives back each of its inputs, input0, input1, ..., as output0, output1, ..."""
    nodes, inputs, outputs = [], [], []
    for index, shape in enumerate(shapes):
        nodes.append(helper.make_node("Identity", [f"input{index}"], [f"output{index}"]))
        inputs.append(helper.make_tensor_value_info(f"input{index}", dtype, shape))
        outputs.append(helper.make_tensor_value_info(f"output{index}", dtype, shape))
    graph = helper.make_graph(nodes, "identity", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def brightness(factor=1.0, batch="N"):
    """A model of pictures, 4 x 6, that gives `factor` times the mean of each channel."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
        helper.make_node("Mul", ["mean", "factor"], ["brightness"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (batch, 3, 4, 6))],
        [helper.make_tensor_value_info("brightness", TensorProto.FLOAT, (batch, 3, 1, 1))],
        [numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
