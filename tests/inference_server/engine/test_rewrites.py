"""A graph that was rewritten for the CPU gives what it gave, and what is not recognised for certain stays as it is."""

import numpy as np
import onnxruntime
import pytest
import yolo_sized
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from inference_server.engine import Device, ModelVersion, load, rewrites
from inference_server.engine.rewrites import rewrite_for_cpu
from inference_server.errors import ModelRefused

CHANNELS, SIDE = 48, 6
SILU = [("Sigmoid", ["conv"], "gate", {}), ("Mul", ["conv", "gate"], "active", {})]
RELU = [("Relu", ["conv"], "active", {})]


def model_of(nodes, inputs, outputs, constants=None, opset=18):
    """A graph of `nodes`, (operator, inputs, outputs, attributes) each, and float tensors of these shapes."""
    graph = helper.make_graph(
        [
            helper.make_node(operator, takes, [gives] if isinstance(gives, str) else gives, **attributes)
            for operator, takes, gives, attributes in nodes
        ],
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model, **inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def rewritten(model, opset=18):
    """What becomes of a copy."""
    new = type(model)()
    new.CopyFrom(model)
    rewrite_for_cpu(new, opset)
    return new


def operators(model):
    return sorted(node.op_type for node in model.graph.node)


def is_left_alone(model, opset=18):
    return rewritten(model, opset) == model


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def softmax(axis, rank, opset=18):
    """A softmax behind a transposition that leaves everything where it is."""
    nodes = [
        ("Transpose", ["x"], "same", {"perm": list(range(rank))}),
        ("Softmax", ["same"], "y", {} if axis is None else {"axis": axis}),
    ]
    return model_of(nodes, {"x": [None] * rank}, ["y"], opset=opset)


def exactly(x, axis):
    power = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
    return power / power.sum(axis, keepdims=True)


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize(("axis", "rank"), [(1, 4), (0, 2), (-2, 3), (2, 4), (-4, 4)])
def test_softmax_over_an_axis_before_the_last_is_spelled_out(opset, axis, rank):
    model = rewritten(softmax(axis, rank, opset), opset)
    assert operators(model) == ["Div", "Exp", "ReduceMax", "ReduceSum", "Sub", "Transpose"]
    x = random(*(5, 4, 3, 2)[:rank]) * 5
    np.testing.assert_allclose(run(model, x=x)[0], exactly(x, axis), rtol=1e-5, atol=1e-9)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1, 30, 1e4, 1e38]), st.integers(1, 20))
def test_it_is_as_exact_as_the_operator_itself(spelled_out, seed, scale, count):
    ours, theirs = spelled_out
    x = np.random.default_rng(seed).uniform(-scale, scale, (2, count, 3)).astype(np.float32)
    given_, truth = ours.run(None, {"x": x})[0], exactly(x, 1)
    np.testing.assert_allclose(given_, truth, rtol=3e-6 * max(1, min(scale, 100)), atol=1e-30)
    np.testing.assert_allclose(given_, theirs.run(None, {"x": x})[0], rtol=3e-6 * max(1, min(scale, 100)), atol=1e-30)


@pytest.fixture(scope="module")
def spelled_out():
    model = softmax(1, 3)
    return [
        onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"])
        for one in (rewritten(model), model)
    ]


@pytest.mark.parametrize("odd", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf], [-np.inf] * 4, [3e38, -3e38]])
def test_what_is_no_number_stays_none(spelled_out, odd):
    x = random(1, 4, 3)
    x[0, : len(odd), 1] = odd
    ours, theirs = (session.run(None, {"x": x})[0] for session in spelled_out)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_softmax_that_a_convolution_reads_is_over_no_last_axis():
    nodes = [("Softmax", ["x"], "soft", {"axis": 1}), ("Conv", ["soft", "bins"], "y", {})]
    bins = np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)
    model = model_of(nodes, {"x": [1, 16, 4, 20]}, ["y"], {"bins": bins})
    assert "Softmax" not in operators(rewritten(model))
    x = random(1, 16, 4, 20) * 4
    np.testing.assert_allclose(run(rewritten(model), x=x)[0], run(model, x=x)[0], rtol=1e-5)


@pytest.mark.parametrize(("axis", "rank"), [(3, 4), (-1, 4), (1, 2), (None, 3), (9, 3), (-5, 4)])
def test_softmax_over_the_last_axis_stays(axis, rank):
    assert is_left_alone(softmax(axis, rank))


def test_softmax_stays_where_nothing_tells_the_last_axis():
    assert is_left_alone(model_of([("Softmax", ["x"], "y", {"axis": 1})], {"x": None}, ["y"]))


def test_softmax_stays_where_it_means_all_axes_from_there_on():
    model = softmax(1, 3, opset=12)
    assert is_left_alone(model, opset=12)


def block(activation, parting, outputs, *, bias=True, kernel=1, opset=18, more=(), more_outputs=(), **constants):
    """A convolution, its activation, and what parts that; every part goes through a convolution of its own."""
    takes = ["x", "weights", "bias"] if bias else ["x", "weights"]
    nodes = [("Conv", takes, "conv" if activation else "active", {"pads": [kernel // 2] * 4}), *activation, *parting]
    named = {
        "weights": random(CHANNELS, 8, kernel, kernel, seed=1),
        **({"bias": random(CHANNELS, seed=2)} if bias else {}),
        **constants,
    }
    return model_of([*nodes, *more], {"x": ["batch", 8, SIDE, SIDE]}, [*outputs, *more_outputs], named, opset=opset)


def split(*sizes, axis=1):
    """16 and 32 channels by an input, unless other sizes are wanted."""
    return [("Split", ["active", "sizes"], ["a", "b"], {"axis": axis})], {
        "sizes": np.array(sizes or (16, 32), np.int64)
    }


def assert_parted(model, count=2, opset=18):
    new = rewritten(model, opset)
    assert not {"Split", "Slice"} & set(operators(new)), operators(new)
    assert operators(new).count("Conv") == count
    read = {name for node in new.graph.node for name in node.input}
    assert {tensor.name for tensor in new.graph.initializer} <= read
    for batch in (1, 3):
        x = random(batch, 8, SIDE, SIDE, seed=batch)
        for ours, theirs in zip(run(new, x=x), run(model, x=x), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    return new


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "activation",
    [
        SILU,
        [SILU[0], ("Mul", ["gate", "conv"], "active", {})],
        RELU,
        [("LeakyRelu", ["conv"], "active", {"alpha": 0.3})],
        [("HardSwish", ["conv"], "active", {})],
        [],
    ],
)
def test_a_convolution_of_single_pixels_is_parted_instead_of_what_it_gives(activation, bias):
    parting, constants = split()
    new = assert_parted(block(activation, parting, ["a", "b"], bias=bias, **constants))
    assert sum(node.op_type == "Sigmoid" for node in new.graph.node) == 2 * (len(activation) == 2)


@pytest.mark.parametrize(
    ("opset", "said", "given"),
    [
        (7, {"split": [32, 16]}, []),
        (12, {"split": [32, 16]}, []),
        (12, {}, []),
        (13, {}, []),
        (13, {}, ["sizes"]),
        (17, {}, []),
        (18, {"num_outputs": 3}, []),
        (18, {}, ["sizes"]),
    ],
)
def test_sizes_are_said_as_each_opset_says_them(opset, said, given):
    outputs = ["a", "b"] if "split" in said or given else ["a", "b", "c"]
    parting = [("Split", ["active", *given], outputs, {"axis": 1, **said})]
    constants = {"sizes": np.array([16, 32])} if given else {}
    assert_parted(block(SILU, parting, outputs, opset=opset, **constants), len(outputs), opset)


@pytest.mark.parametrize(
    ("opset", "said", "given"),
    [
        (12, {}, ["sizes"]),
        (12, {"num_outputs": 2}, []),
        (13, {"split": [16, 32]}, []),
        (13, {"split": [16, 32]}, ["sizes"]),
        (17, {"num_outputs": 2}, []),
        (18, {}, []),
        (18, {"num_outputs": 3}, []),
        (18, {"num_outputs": 2}, ["sizes"]),
    ],
)
def test_sizes_that_are_said_as_no_opset_says_them_stay(opset, said, given):
    parting = [("Split", ["active", *given], ["a", "b"], {"axis": 1, **said})]
    constants = {"sizes": np.array([16, 32])} if given else {}
    assert is_left_alone(block(SILU, parting, ["a", "b"], opset=opset, **constants), opset)


def slices(*bounds, steps=()):
    """Slices from and to these channels."""
    names = "abcd"[: len(bounds)]
    nodes = [("Slice", ["active", f"{name}0", f"{name}1", "axis", *steps], name, {}) for name in names]
    edges = {
        f"{name}{end}": np.array([bound[end]]) for name, bound in zip(names, bounds, strict=True) for end in (0, 1)
    }
    return nodes, names, {**edges, "axis": np.array([1])}


@pytest.mark.parametrize("bounds", [[(0, 16), (16, 48)], [(32, 2**63 - 1), (0, 32)], [(0, 16)], [(16, 32), (0, 16)]])
@pytest.mark.parametrize("steps", [(), ("axis",)])
def test_slices_part_it_too(bounds, steps):
    parting, names, constants = slices(*bounds, steps=steps)
    assert_parted(block(SILU, parting, [*names], **constants), len(bounds))


def test_a_constant_may_come_from_a_node_or_by_another_name():
    parting, constants = split()
    model = block(SILU, parting, ["a", "b"], bias=False, **constants)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "weights")
    model.graph.node.insert(
        0, helper.make_node("Constant", [], ["bias"], value=numpy_helper.from_array(random(CHANNELS)))
    )
    model.graph.node.insert(1, helper.make_node("Identity", ["kept"], ["weights"]))
    weights.name = "kept"
    model.graph.node[2].input.append("bias")
    new = rewritten(model)
    assert "Split" not in operators(new)
    x = random(1, 8, SIDE, SIDE)
    for ours, theirs in zip(run(new, x=x), run(model, x=x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


BRANCH = helper.make_graph(
    [helper.make_node("Identity", ["gate"], ["inside"])],
    "branch",
    [],
    [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
)
WHOLE_BY_A_BRANCH = [("If", ["yes"], "whole", {"then_branch": BRANCH, "else_branch": BRANCH})]
SPLIT, SIZES = split()


@pytest.mark.parametrize(
    "model",
    [
        block(SILU, SPLIT, ["a", "b"], kernel=3, **SIZES),
        block(SILU, SPLIT, ["a", "b"], more_outputs=["active"], **SIZES),
        block(SILU, SPLIT, ["a", "b"], more_outputs=["conv"], **SIZES),
        block(SILU, SPLIT, ["a", "b"], more_outputs=["gate"], **SIZES),
        block(SILU, SPLIT, ["a", "b"], more=[("Abs", ["active"], "whole", {})], more_outputs=["whole"], **SIZES),
        block(SILU, SPLIT, ["a", "b"], more=WHOLE_BY_A_BRANCH, more_outputs=["whole"], yes=np.array(True), **SIZES),
        block([SILU[0], ("Mul", ["conv", "conv"], "active", {})], SPLIT, ["a", "b"], more_outputs=["gate"], **SIZES),
        block([("Sigmoid", ["x"], "gate", {}), ("Mul", ["conv", "gate"], "active", {})], SPLIT, ["a", "b"], **SIZES),
        block([("Softplus", ["conv"], "active", {})], SPLIT, ["a", "b"], **SIZES),
        block(SILU, split(8, 40)[0], ["a", "b"], **split(8, 40)[1]),
        block(SILU, split(axis=0)[0], ["a", "b"], **split(1, 0)[1]),
        block(SILU, split(axis=2)[0], ["a", "b"], **split(2, 4)[1]),
        block(SILU, slices((0, 32), (16, 48))[0], ["a", "b"], **slices((0, 32), (16, 48))[2]),
        block(SILU, slices((-16, 48))[0], ["a"], **slices((-16, 48))[2]),
        block(SILU, slices((0, 16), steps=["two"])[0], ["a"], two=np.array([2]), **slices((0, 16))[2]),
        block(SILU, slices((16, 16))[0], ["a"], **slices((16, 16))[2]),
    ],
    ids=[
        "larger kernel",
        "read whole",
        "convolution read",
        "gate read",
        "read by a node",
        "read in a branch",
        "no gate",
        "gate of another",
        "another activation",
        "part of a block",
        "batches",
        "rows",
        "overlap",
        "from the end",
        "steps",
        "nothing",
    ],
)
def test_all_else_stays(model):
    assert is_left_alone(model)


def test_weights_that_a_caller_may_change_stay():
    model = block(SILU, SPLIT, ["a", "b"], **SIZES)
    model.graph.input.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, [CHANNELS, 8, 1, 1]))
    assert is_left_alone(model)


@pytest.mark.parametrize("twice", ["conv", "gate", "active"])
def test_what_is_given_twice_stays(twice):
    model = block(SILU, SPLIT, ["a", "b"], **SIZES)
    by_a_caller, by_a_node = type(model)(), type(model)()
    for one in (by_a_caller, by_a_node):
        one.CopyFrom(model)
    by_a_caller.graph.input.append(helper.make_tensor_value_info(twice, TensorProto.FLOAT, None))
    by_a_node.graph.node.insert(0, helper.make_node("Identity", ["x"], [twice]))
    assert is_left_alone(by_a_caller)
    assert is_left_alone(by_a_node)


def renamed(model, before, after):
    """The model with other bytes in place of a name that is as long."""
    return type(model).FromString(model.SerializeToString().replace(before, after))


@pytest.mark.parametrize("name", [b"active", b"conv", b"gate", b"weights", b"sizes", b"bias"])
def test_names_that_are_no_text_stay(name):
    model = renamed(block(SILU, SPLIT, ["a", "b"], **SIZES), name, b"\xff" * len(name))
    assert is_left_alone(model)


def test_a_softmax_of_names_that_are_no_text_stays():
    assert is_left_alone(renamed(softmax(1, 3), b"same", b"\xff\xfe\xfd\xfc"))


@pytest.mark.parametrize("operator", ["Split", "Softmax"])
def test_attributes_of_a_function_that_is_not_there_stay(operator):
    model = block(SILU, SPLIT, ["a", "b"], **SIZES) if operator == "Split" else softmax(1, 3)
    node = next(node for node in model.graph.node if node.op_type == operator)
    node.attribute[0].ref_attr_name = "axis"
    assert is_left_alone(model)


def test_a_constant_that_is_given_twice_stays():
    model = block(SILU, SPLIT, ["a", "b"], **SIZES)
    model.graph.initializer.append(numpy_helper.from_array(random(CHANNELS, 8, 1, 1, seed=9), "weights"))
    assert is_left_alone(model)


def test_a_convolution_with_itself_stays():
    nodes = [("Conv", ["x", "x"], "active", {}), *SPLIT]
    x = random(32, 32, 1, 1)
    assert is_left_alone(model_of(nodes, {}, ["a", "b"], {"x": x, "sizes": np.array([16, 16])}))


def test_what_is_quantised_behind_stays():
    more = [
        ("QuantizeLinear", ["b", "scale", "zero"], "small", {}),
        ("DequantizeLinear", ["small", "scale"], "back", {}),
    ]
    constants = {"scale": np.float32(0.1), "zero": np.uint8(0)}
    assert is_left_alone(block(RELU, SPLIT, ["a"], more=more, more_outputs=["back"], **constants, **SIZES))


def test_what_was_rewritten_stays():
    once = rewritten(block(SILU, SPLIT, ["a", "b"], **SIZES))
    once.graph.node.append(helper.make_node("Split", ["a", "sizes"], ["c", "d"], axis=1))
    assert is_left_alone(once)


def test_bounds_that_are_no_lists_or_are_none_in_this_opset_stay():
    nodes, names, constants = slices((0, 16))
    assert is_left_alone(block(SILU, nodes, [*names], opset=9, **constants), 9)
    for name in ("a0", "a1", "axis"):
        flat = {**constants, name: constants[name][0]}
        assert is_left_alone(block(SILU, nodes, [*names], **flat))


def test_many_parts_of_one_value_are_looked_at_once(monkeypatch):
    asked = []
    look = rewrites._Rewrites._parting
    monkeypatch.setattr(rewrites._Rewrites, "_parting", lambda self, value: asked.append(value) or look(self, value))
    parting, names, constants = slices((0, 16), (16, 32), (32, 48))
    assert_parted(block(SILU, parting, [*names], **constants), 3)
    assert asked == ["active"]


def test_groups_stay():
    model = block(SILU, SPLIT, ["a", "b"], **SIZES)
    next(t for t in model.graph.initializer if t.name == "weights").CopyFrom(
        numpy_helper.from_array(random(CHANNELS, 4, 1, 1), "weights")
    )
    model.graph.node[0].attribute.append(helper.make_attribute("group", 2))
    assert is_left_alone(model)


def test_other_operators_of_the_same_names_stay():
    for index in (0, 1, 2, 3):
        model = block(SILU, SPLIT, ["a", "b"], **SIZES)
        model.graph.node[index].domain = "elsewhere"
        assert is_left_alone(model)


SPOILED = {
    "no inputs": lambda node: node.ClearField("input"),
    "no outputs": lambda node: node.ClearField("output"),
    "one input more": lambda node: node.input.append("nowhere"),
    "an input from nowhere": lambda node: node.input.__setitem__(-1, "nowhere"),
    "something unheard of": lambda node: node.attribute.append(helper.make_attribute("extent", 1)),
    "something twice": lambda node: node.attribute.append(node.attribute[0]),
    "text for numbers": lambda node: node.attribute[0].CopyFrom(helper.make_attribute(node.attribute[0].name, "no")),
}
OPERATORS = ["Softmax", "Split", "Slice", "Conv", "Mul", "Sigmoid", "Transpose", "Identity"]
WITH_NUMBERS = ["Softmax", "Split", "Conv", "Transpose"]
OF_NUMBERS = ["text for numbers", "something twice"]


def loads(model, folder):
    """Load it as the server does."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    version = ModelVersion("model", 1, path, attributes={"videoai": {"family": "tensors"}})
    load(version, Device("cpu")).close()


@pytest.fixture
def all_operators():
    """A model with every operator that is looked at."""
    model = block(SILU, SPLIT, ["a", "b"], more_outputs=["soft", "first"], **SIZES, kept=random(CHANNELS, 8, 1, 1))
    del model.graph.initializer[0]
    more = [
        helper.make_node("Identity", ["kept"], ["weights"]),
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 1, 2, 3]),
        helper.make_node("Softmax", ["turned"], ["soft"], axis=1),
        helper.make_node("Slice", ["x", "sizes", "sizes"], ["first"]),
    ]
    for node in reversed(more):
        model.graph.node.insert(0, node)
    return model


@pytest.mark.parametrize(
    ("how", "operator"),
    [(how, one) for how in SPOILED for one in (WITH_NUMBERS if how in OF_NUMBERS else OPERATORS)],
)
def test_a_file_that_is_wrong_is_refused_all_the_same(all_operators, operator, how, tmp_path):
    loads(all_operators, tmp_path)
    for node in all_operators.graph.node:
        if node.op_type == operator:
            SPOILED[how](node)
    with pytest.raises(ModelRefused):
        loads(all_operators, tmp_path)


@pytest.mark.parametrize("damage", ["type", "data", "rank"])
def test_weights_that_are_wrong_are_left_to_who_runs_them(damage):
    model = block(SILU, SPLIT, ["a", "b"], **SIZES)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "weights")
    if damage == "type":
        weights.data_type = 99
    elif damage == "data":
        weights.raw_data = weights.raw_data[:-1]
    else:
        del weights.dims[:]
        weights.raw_data = weights.raw_data[:4]
    assert is_left_alone(model)


def test_a_detector_is_rewritten_when_it_is_loaded_on_the_cpu(tmp_path):
    """Of YOLOv8n's graph all splits but the last, which is of the head's output, and the softmax."""
    model = yolo_sized.build(size=64)
    path = tmp_path / "yolo.onnx"
    path.write_bytes(model.SerializeToString())
    before = operators(model)
    new = rewritten(model, model.opset_import[0].version)
    assert before.count("Softmax") == 1
    assert "Softmax" not in operators(new)
    assert before.count("Split") - operators(new).count("Split") == 8
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    loaded = load(ModelVersion("yolo", 1, path), Device("cpu"))
    try:
        ours = loaded.run([frame])[0]
    finally:
        loaded.close()
    planes = np.float32(frame.transpose(2, 0, 1)[None]) * np.float32(1 / 255)
    (theirs,) = run(model, images=planes)
    np.testing.assert_allclose(next(iter(ours.values())), theirs[0], rtol=1e-4, atol=1e-4)
