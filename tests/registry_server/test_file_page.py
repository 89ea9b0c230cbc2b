"""docs/registry-file.md tells the truth."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from videoai.registry.v1 import registry_pb2 as pb

PAGE = (Path(__file__).parents[2] / "docs" / "registry-file.md").read_text()


async def test_the_example_is_served_and_every_key_that_is_added_is_explained(root: Any, serve: Any) -> None:
    example = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert len(example) == 1
    root.file.write_text(example[0])
    written = set(re.findall(r'"(\w+)":', example[0]))
    async with serve(root) as client:
        assert (await client.production("yolov8n-coco")).model.metadata.metrics["latency_ms"] == 30
        await client.register("m", 1, root.add_model("m", 1), request_id="r1")
        await client.activate("m", 1, request_id="r2")
        await client.stub.GetModel(pb.GetModelRequest(model_name="m", version=1))
    specs = {"name", "datatype", "shape"}  # of inputs and outputs, as in the .proto
    added = set(re.findall(r'"(\w+)":', json.dumps(root.document()))) - written - specs
    assert {key for key in added if f"`{key}`" not in PAGE} == set()
    assert {"history", "videoai", "sha256", "activation_timestamp"} <= added
