"""New nodes and constants of a graph, with names that no exporter gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper


class Additions:
    """What is to be added to `graph`, named `prefix`/number: `nodes`, in the order in which they run, for the caller to
    put where they belong; constants are in the graph at once."""

    def __init__(self, graph: GraphProto, prefix: str) -> None:
        self.nodes: list[NodeProto] = []
        self._graph = graph
        self._prefix = prefix
        self._count = 0

    def node(self, operator: str, *inputs: Any, results: Sequence[str] = (), **attributes: Any) -> str:
        """Add a node; lists and arrays among its inputs become constants. Returns its first result."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        outputs = results or [self.name()]
        self.nodes.append(helper.make_node(operator, names, outputs, self.name(), **attributes))
        return outputs[0]

    def constant(self, value: Any) -> str:
        """The name of a constant: an array, or integers."""
        array = value if isinstance(value, np.ndarray) else np.array(value, np.int64)
        self._graph.initializer.append(numpy_helper.from_array(array, self.name()))
        return self._graph.initializer[-1].name

    def name(self) -> str:
        """A name for one more value or node."""
        self._count += 1
        return f"{self._prefix}/{self._count}"
