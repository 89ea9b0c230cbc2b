"""What Schemathesis is told about the server that it asks: where there is a model file."""

from __future__ import annotations

from typing import Any

import schemathesis

PATH = "models/yolov8n-coco/v3/model.onnx"


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Have most of the bodies that are valid name a file that exists: the rest of them matters then."""
    if isinstance(body, dict) and str(body.get("path")).startswith("models/") and len(body["path"]) % 4:
        body["path"] = PATH
    return body
