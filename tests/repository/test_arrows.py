"""Where a line goes: which module may import what."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.repository.house import reachable, read, uses, within

CLIENTS = ("videoai", "demo", "sidecar")
TENSORS = tuple(
    f"inference_server.tensors.{part}" for part in ("service", "calls", "convert", "describe", "messages", "settings")
)
WIRE = ("registry_server.service", "registry_server.convert", "inference_server.service", *TENSORS, *CLIENTS)
SERVERS = ("registry_server.server", "inference_server.server")
WATCHER = ("inference_server.watcher", "inference_server.reporter", "inference_server.fetching")

# What each of these may be used by; nothing else of ours may.
PLACES: Mapping[str, tuple[str, ...]] = {
    "av": ("inference_server.video", "videoai.annotating", "demo"),
    "onnxruntime": ("inference_server.engine.runtime",),
    "onnx": (
        "inference_server.engine",
        "registry_server.artifacts",
        "registry_server.onnx_files",
        "server_kit.model_files",
        "demo",
    ),
    "filelock": ("registry_server.json_storage",),
    "sqlite3": ("registry_server.sqlite_storage", "registry_server.sqlite_tables"),
    "os.fsync": ("registry_server.files", "inference_server.state", "inference_server.cache"),
    "watchfiles": ("registry_server.follow",),
    "grpc": (*WIRE, *SERVERS, "server_kit"),
    "grpc_health": ("server_kit",),
    "grpc_reflection": ("server_kit",),
    "google.protobuf": (*WIRE, *WATCHER, "server_kit.reflection", "server_kit.requests", "server_kit.retry"),
    "google.rpc": ("server_kit.retry",),
    "videoai.registry.v1": (*WIRE, *SERVERS, *WATCHER),
    "videoai.inference.v1": (*WIRE, *SERVERS),
    "videoai.open_inference": TENSORS,
    "fastapi": ("registry_server.rest",),
    "starlette": ("registry_server.rest",),
    "pydantic": ("registry_server.rest",),
    "uvicorn": ("registry_server.rest",),
    "click": (
        *(
            f"{server}.{module}"
            for server in ("registry_server", "inference_server")
            for module in ("settings", "video_settings", "__main__")
        ),
        "registry_server.edit",
        "server_kit.options",
        "server_kit.healthcheck",
        *CLIENTS,
    ),
    "os.environ": ("videoai", "inference_server.children", "inference_server.engine.runtime", "demo"),
    # The servers' signals are server_kit's; decoders, and what prepares a version, are processes of their own.
    "signal": (
        *("server_kit", "inference_server.video", "inference_server.kernel", "inference_server.engine.apart"),
        *("inference_server.preparing", "registry_server.edit", "demo"),
    ),
}
# A corrupt ONNX file shows itself as protobuf's error: no type of the wire.
EXCEPTIONS = {("registry_server.onnx_files", "google.protobuf"), ("inference_server.engine.graph", "google.protobuf")}

# The parts of server_kit that are about being a server, which model files are not.
SERVING = tuple(
    f"server_kit.{part}" for part in ("app", "background", "errors", "health", "logs", "metrics", "options", "requests")
)

# What importing the first must never bring along, however indirectly.
APART: Mapping[str, tuple[str, ...]] = {
    "registry_server": ("inference_server",),
    "inference_server": ("registry_server",),
    "server_kit": ("registry_server", "inference_server", "videoai"),
    "videoai": ("registry_server", "inference_server", "server_kit", "onnx", "onnxruntime"),
    "inference_server.video.worker": ("grpc", "google", "onnx", "onnxruntime", "videoai", "server_kit"),
    "inference_server.engine": ("grpc", "videoai", "av", *SERVING, "inference_server.video"),
    "inference_server.video": (
        *("grpc", "videoai", "onnxruntime", "server_kit", "inference_server.engine", "inference_server.sources"),
    ),
    "inference_server.sources": ("grpc", "google", "videoai", "onnxruntime", "server_kit", "inference_server.engine"),
    "registry_server.storage": ("registry_server.registry", "registry_server.service", "grpc", "videoai"),
    "registry_server.registry": ("registry_server.service", "registry_server.server", "grpc", "videoai"),
}

# The domain, and the only packages beyond the standard library that it stands on.
PURE: Mapping[str, tuple[str, ...]] = {"registry_server.catalog": (), "inference_server.detection": ("numpy",)}
THIRD_PARTY = ("grpc", "google", "av", "onnx", "onnxruntime", "filelock", "sqlite3", "watchfiles", "structlog", "click",
               "numpy", "prometheus_client", "fastapi", "starlette", "pydantic", "uvicorn", "rich", "videoai",
               "server_kit", "os.environ")  # fmt: skip


@pytest.fixture(scope="module")
def house() -> dict[str, set[str]]:
    return read()


def misplaced(house: Mapping[str, set[str]]) -> list[str]:
    return [
        f"{module} uses {name}, which belongs to {', '.join(places)}"
        for module, used in house.items()
        for name, places in PLACES.items()
        if any(within(use, name) for use in used) and not within(module, *places) and (module, name) not in EXCEPTIONS
    ]


def crossed(house: Mapping[str, set[str]]) -> list[str]:
    return [
        f"{module} brings along {use}"
        for start, banned in APART.items()
        for module in house
        if within(module, start)
        for use in sorted(reachable(module, house))
        if within(use, *banned)
    ]


def impure(house: Mapping[str, set[str]]) -> list[str]:
    return [
        f"{module} brings along {use}"
        for start, allowed in PURE.items()
        for module in house
        if within(module, start)
        for use in sorted(reachable(module, house))
        if within(use, *THIRD_PARTY) and not within(use, *allowed)
    ]


@pytest.mark.parametrize("rule", [misplaced, crossed, impure])
def test_arrows_hold(rule: object, house: dict[str, set[str]]) -> None:
    assert callable(rule)
    assert rule(house) == []


def test_modules_that_are_held_apart_exist(house: dict[str, set[str]]) -> None:
    named = {*APART, *PURE, *(module for module, _ in EXCEPTIONS)}
    assert sorted(named - house.keys()) == []


# Which packages each program runs without: those of the other extras.
FOREIGN: Mapping[str, tuple[str, ...]] = {
    "videoai.cli": ("av", "numpy", "PIL", "onnx", "onnxruntime", "filelock", "watchfiles", "structlog", "grpc_health"),
    "registry_server.__main__": ("av", "PIL", "onnxruntime", "fastapi", "starlette", "pydantic", "uvicorn"),
    "inference_server.__main__": ("PIL", "filelock", "watchfiles", "fastapi", "pydantic", "uvicorn"),
}


@pytest.mark.parametrize("module", FOREIGN)
def test_programs_start_with_their_extra_alone(module: str) -> None:
    block = f"import sys; sys.modules.update(dict.fromkeys({FOREIGN[module]!r}))"
    command = [sys.executable, "-c", f"{block}; import {module}"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.parametrize(
    ("module", "source", "rule"),
    [
        ("registry_server.catalog", "import grpc", misplaced),
        ("registry_server.registry", "from videoai.registry.v1 import registry_pb2", misplaced),
        ("inference_server.pipeline", "def f():\n    import av.container", misplaced),
        ("inference_server.service", "from onnxruntime import InferenceSession", misplaced),
        ("registry_server.registry", "import os\nos.fsync(3)", misplaced),
        ("registry_server.registry", "import sqlite3", misplaced),
        ("inference_server.pipeline", "import os\nos.environ['HOME']", misplaced),
        ("registry_server.service", "from inference_server import errors", crossed),
        ("server_kit.app", "import videoai.errors", crossed),
        ("inference_server.errors", "import grpc", crossed),  # by way of the worker, which imports the errors
        ("registry_server.errors", "from . import json_storage", impure),  # by way of the catalog
        ("inference_server.detection.geometry", "from ..engine import session", impure),
    ],
)
def test_violations_are_caught(module: str, source: str, rule: object, house: dict[str, set[str]]) -> None:
    assert callable(rule)
    assert module in house
    assert rule({**house, module: house[module] | uses(source, module)})


def test_relative_imports_are_resolved() -> None:
    assert uses("from . import b", "a.c") == {"a", "a.b"}
    assert uses("from .b import d", "a", package=True) == {"a.b", "a.b.d"}
    assert uses("from ..b import d", "a.c.e") == {"a.b", "a.b.d"}
