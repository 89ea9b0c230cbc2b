"""Put mutated model files into production, and hold what the inference server does with them against what it promises.

    python tests/fuzz/model_files.py --cases 500

Each case is the demo's first detector with something wrong, registered and activated. The server must serve it or
refuse it for a reason of its own, and another model must answer as it did before, whatever a file does to ONNX Runtime.
Case N of a run with --seed S is the seed S + N, and `--only SEED` runs one case again.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

import click
import grpc
import numpy as np
from demo import models
from harness import Pair, eventually, serving
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper
from videoai.inference.v1 import inference_pb2 as pb

FOLDER = Path("build/fuzz")
MUTANT = "mutant"
DECIDED = (pb.SERVING_STATE_SERVING, pb.SERVING_STATE_REJECTED)
FAMILIES = ("tensors", "yolo-detect", "")
# Large enough to fit nothing, and small enough for the memory of whoever runs this.
NUMBERS = (-(2**63), -(2**31), -9, -1, 0, 1, 2, 7, 999, 4096)
ATTRIBUTES = ("axis", "axes", "pads", "strides", "kernel_shape", "group", "num_outputs", "to", "perm", "mode")
OPERATORS = (
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Concat",
    "Conv",
    "ConvTranspose",
    "CumSum",
    "DepthToSpace",
    "Einsum",
    "Expand",
    "Gather",
    "GatherND",
    "GridSample",
    "If",
    "LSTM",
    "LayerNormalization",
    "Loop",
    "MaxPool",
    "OneHot",
    "NonMaxSuppression",
    "Pad",
    "QuantizeLinear",
    "Range",
    "Reshape",
    "Resize",
    "RoiAlign",
    "Scan",
    "ScatterND",
    "Shape",
    "Slice",
    "Softmax",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "TopK",
    "Transpose",
    "Unsqueeze",
)


@dataclass(slots=True)
class Run:
    """What has happened so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def case(number: int) -> tuple[bytes, str]:
    """A file, and the family that its entry says; empty for none."""
    choose = random.Random(number)  # noqa: S311 - repeatable
    model = models.build(models.V1)
    if choose.random() < 0.3:
        content = bytearray(model.SerializeToString())
        for _ in range(choose.choice((1, 1, 2, 5, 20))):
            content[choose.randrange(len(content))] = choose.choice((0, 1, 0x7F, 0x80, 0xFF, choose.randrange(256)))
        return bytes(content), choose.choice(FAMILIES)
    for _ in range(choose.choice((1, 1, 2, 3))):
        choose.choice((_attribute, _operator, _wire, _weights, _input, _more_inputs, _output))(choose, model)
    return model.SerializeToString(), choose.choice(FAMILIES)


def _node(choose: random.Random, model: ModelProto) -> NodeProto:
    return choose.choice(model.graph.node)


def _attribute(choose: random.Random, model: ModelProto) -> None:
    node = _node(choose, model)
    if not node.attribute or choose.random() < 0.3:
        value: Any = choose.choice((choose.choice(NUMBERS), [choose.choice(NUMBERS) for _ in range(3)], b"\xff", 0.5))
        node.attribute.append(helper.make_attribute(choose.choice(ATTRIBUTES), value))
        return
    attribute = choose.choice(node.attribute)
    match attribute.type:
        case AttributeProto.INTS:
            attribute.ints[:] = [choose.choice(NUMBERS) for _ in range(choose.choice((0, 1, 2, 4, 9)))]
        case AttributeProto.INT:
            attribute.i = choose.choice(NUMBERS)
        case AttributeProto.FLOAT:
            attribute.f = choose.choice((float("nan"), float("inf"), -1e38, 0.0))


def _operator(choose: random.Random, model: ModelProto) -> None:
    _node(choose, model).op_type = choose.choice(OPERATORS)


def _wire(choose: random.Random, model: ModelProto) -> None:
    node = _node(choose, model)
    names = [tensor.name for tensor in model.graph.initializer]
    names += [name for other in model.graph.node for name in other.output]
    if node.input:
        node.input[choose.randrange(len(node.input))] = choose.choice([*names, "", "nowhere"])


def _weights(choose: random.Random, model: ModelProto) -> None:
    tensor = choose.choice(model.graph.initializer)
    if choose.random() < 0.5:
        tensor.dims[:] = [choose.choice(NUMBERS) for _ in range(choose.randrange(5))]
        return
    values = numpy_helper.to_array(tensor)
    made = np.array([choose.choice(NUMBERS) for _ in range(values.size)], np.float64).reshape(values.shape)
    with np.errstate(all="ignore"):
        tensor.CopyFrom(numpy_helper.from_array(made.astype(values.dtype), tensor.name))


def _input(choose: random.Random, model: ModelProto) -> None:
    choose.choice(model.graph.input[0].type.tensor_type.shape.dim).dim_value = choose.choice(NUMBERS)


def _more_inputs(choose: random.Random, model: ModelProto) -> None:
    _node(choose, model).input.append(choose.choice(model.graph.initializer).name)


def _output(choose: random.Random, model: ModelProto) -> None:
    node = _node(choose, model)
    node.output[0] = choose.choice(("", "images", f"{node.output[0]}-"))


class Fuzzer:
    """A running pair, and what is activated in it. Another model answers beside that."""

    def __init__(self, pair: Pair, folder: Path) -> None:
        self.run = Run()
        self._pair = pair
        self._file = folder / "mutant.onnx"
        self._picture = np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8)
        self._expected = self._control()

    def all(self, numbers: Sequence[int]) -> None:
        """Run the cases, one after the other, until the server has ended."""
        for version, number in enumerate(numbers, 1):
            content, family = case(number)
            outcome, problems = self._one(version, content, family)
            self.run.outcomes[outcome] += 1
            self.run.problems += [f"case {number}: {problem}" for problem in problems]
            if problems:
                (FOLDER / f"model-{number}.onnx").write_bytes(content)
            if self._pair.inference_process.popen.poll() is not None:
                return

    def _one(self, version: int, content: bytes, family: str) -> tuple[str, list[str]]:
        self._file.write_bytes(content)
        attributes = {"videoai": {"family": family}} if family else {}
        try:
            self._pair.register(self._file, version, MUTANT, metadata={"attributes": attributes})
            self._pair.activate(version, MUTANT)
        except grpc.RpcError as error:
            fine = error.code() is grpc.StatusCode.INVALID_ARGUMENT
            return f"registry {error.code().name}", [] if fine else [f"the registry: {error.details()}"]
        try:
            served = eventually(lambda: self._decided(version), f"version {version} is decided")
            problems = self._look(served)
            if (answer := self._control()) != self._expected:
                problems.append(f"the other model answers {answer}, and {self._expected} before")
        except (grpc.RpcError, AssertionError) as error:
            return "none", [f"the server ended or does not answer: {error}"]
        return pb.ServingState.Name(served.state).removeprefix("SERVING_STATE_"), problems

    def _decided(self, version: int) -> pb.ServedModel | None:
        served = self._pair.serving(MUTANT)
        return served if served.seen_version == version and served.state in DECIDED else None

    def _look(self, served: pb.ServedModel) -> list[str]:
        if served.state == pb.SERVING_STATE_SERVING:
            return []
        self.run.reasons[" ".join(served.last_error.split())[:70]] += 1
        wrong = "not its own" in served.last_error or not served.last_error
        return [f"refused without a reason: {served.last_error!r}"] if wrong else []

    def _control(self) -> list[tuple[int, float]]:
        found = self._pair.answer(self._picture).detections
        return [(one.class_id, round(one.score, 4)) for one in found]


def fuzz(folder: Path, numbers: Sequence[int]) -> Run:
    """All of it, from start to end."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    models.build_v1(folder / "control.onnx")
    (folder / "root").mkdir()
    with serving(folder / "root", folder / "control.onnx") as pair:
        fuzzer = Fuzzer(pair, folder)
        fuzzer.all(numbers)
        process = pair.inference_process
        if process.popen.poll() is not None:
            fuzzer.run.problems.append(f"the server ended with {process.popen.returncode}")
        if "Traceback" in process.log:
            fuzzer.run.problems.append("there is a traceback in the server's log")
        (FOLDER / "models-server.log").write_text(process.log)
    return fuzzer.run


@click.command()
@click.option("--cases", default=500, show_default=True, help="Files to put into production.")
@click.option("--seed", type=int, default=None, help="Repeats all choices; random by default.")
@click.option("--only", type=int, default=None, help="Run this one case again, as a report names it.")
def main(*, cases: int, seed: int | None, only: int | None) -> None:
    """Put mutated model files into production; exit with 1 if anything went wrong."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    numbers = range(seed, seed + cases) if only is None else range(only, only + 1)
    with tempfile.TemporaryDirectory(prefix="videoai-fuzz-") as folder:
        run = fuzz(Path(folder), numbers)
    told = {
        "seed": seed,
        "outcomes": dict(run.outcomes),
        "reasons": dict(run.reasons.most_common(20)),
        "problems": run.problems,
    }
    click.echo(json.dumps(told, indent=2))
    sys.exit(bool(run.problems))


if __name__ == "__main__":
    main()
