"""/openapi.json says what the routes do: Schemathesis reads it, and tries to prove it wrong with all of its checks."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import httpx
import pytest
from videoai.registry.v1 import registry_pb2 as pb

from tests.registry_server.rest.hooks import PATH

MODELS = "/api/v1/registry/models"
ROUTES = {(MODELS, "get"), (MODELS, "post"), (f"{MODELS}/{{model_name}}/{{version}}/activate", "put")}
EXAMPLES = 12


def schemathesis(address: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sysconfig.get_path("scripts"), "st"), "run", f"http://{address}/openapi.json", "--checks=all"]
    options = [f"--max-examples={EXAMPLES}", "--generation-deterministic", "--no-color"]
    variables = {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(Path(__file__).parent), "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [*command, *options], cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=110
    )


def test_no_check_of_schemathesis_fails(root: Any, start: Any, tmp_path: Path) -> None:
    assert root.add_model("yolov8n-coco", 3) == PATH
    server = start("--rest", "127.0.0.1:0")
    done = schemathesis(server.rest, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout, done.stdout
    assert "Traceback" not in (tmp_path / "log").read_text()
    stored = root.document()["models"]
    assert len(stored) > 10, "most of what it sent was refused: it proved nothing"
    assert any(entry.get("activation_timestamp") for entry in stored)
    stub, token, models = server.stub(), "", []
    while token or not models:
        page = stub.ListModels(pb.ListModelsRequest(page_token=token))
        models, token = [*models, *page.models], page.next_page_token
    assert len(models) == len(stored), "what came through one door can be read through the other"


@pytest.fixture
def description(start: Any, http: httpx.Client) -> Any:
    response = http.get(f"http://{start('--rest', '127.0.0.1:0').rest}/openapi.json")
    assert response.headers["content-type"] == "application/json"
    return response.json()


def test_every_route_and_every_error_is_described(description: Any) -> None:
    operations = {(path, verb): item for path, verbs in description["paths"].items() for verb, item in verbs.items()}
    assert operations.keys() == ROUTES
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for route, operation in operations.items():
        assert operation["description"], route
        for status, response in operation["responses"].items():
            assert response["description"], (route, status)
            assert (response["content"] == problem) == (status >= "400"), (route, status)
    assert set(description["components"]["schemas"]) == {
        *("JsonValue", "Metadata", "ModelEntry", "ModelList", "NewModel", "Problem", "Status", "TensorSpec")
    }
