"""docs/rest.md tells the truth."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry_server.rest import problems
from registry_server.rest.body import BODY_SECONDS, MAX_BODY_BYTES, MAX_LEVELS

PAGE = (Path(__file__).parents[3] / "docs" / "rest.md").read_text()
MODELS = "/api/v1/registry/models"


def test_the_commands_work_as_pasted(root: Any, start: Any) -> None:
    if shutil.which("curl") is None:
        pytest.skip("the program curl is not installed")
    for version in (1, 2):
        root.add_model("shapes", version)
    [block] = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    commands = block.replace("127.0.0.1:8080", start("--rest", "127.0.0.1:0").rest)
    done = subprocess.run(["bash", "-euc", commands], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(entry["version"], entry["status"]) for entry in root.document()["models"]] == [
        (1, "staging"),
        (2, "production"),
    ]


async def test_the_example_of_a_problem_is_one(root: Any, door: Any) -> None:
    [example] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    metadata = {"metrics": {"accuracy": "high"}}
    response: httpx.Response = await door.register("m", 1, "models/m.onnx", metadata=metadata)
    assert {**json.loads(example), "title": response.json()["title"]} == response.json()


def test_every_status_is_in_the_table(start: Any, http: httpx.Client) -> None:
    told = {int(status) for status in re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE)}
    paths = http.get(f"http://{start('--rest', '127.0.0.1:0').rest}/openapi.json").json()["paths"]
    described = {int(code) for verbs in paths.values() for item in verbs.values() for code in item["responses"]}
    assert told == (described | {405}) - {200, 201}
    for route in (f"{verb.upper()} {path}" for path, verbs in paths.items() for verb in verbs):
        assert f"| `{route}` |" in PAGE


def test_limits_are_told() -> None:
    assert (MAX_BODY_BYTES, BODY_SECONDS) == (2**20, 10)
    for limit in ("longer than 1 MiB", "within 10 s", f"at most {MAX_LEVELS} levels", problems.MEDIA_TYPE):
        assert limit in PAGE
