"""The registry as a process of its own: flags, restart, signals."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc
from videoai.registry.v1 import registry_pb2 as pb

from registry_server.__main__ import main
from registry_server.service import SERVICE

COMMAND = (sys.executable, "-m", "registry_server")


def register(stub: Any, root: Any, version: int) -> None:
    path = root.add_model("m", version)
    stub.RegisterModel(pb.RegisterModelRequest(model_name="m", version=version, path=path))


STORAGES = pytest.mark.parametrize("storage", ["file:models/registry.json", "sqlite:models/registry.db"])


@STORAGES
def test_what_was_acknowledged_survives_sigkill(root: Any, start: Callable[..., Any], storage: str) -> None:
    server = start("--storage", storage)
    for version in (1, 2):
        stub = server.stub()
        register(stub, root, version)
        answer = stub.ActivateModelVersion(pb.ActivateModelVersionRequest(model_name="m", version=version))
        server.end(signal.SIGKILL)
        server = start("--storage", storage)
        again = server.stub()
        production = again.GetProductionModel(pb.GetProductionModelRequest(model_name="m"))
        assert (production.model, production.revision) == (answer.model, answer.revision)
        assert len(again.ListModels(pb.ListModelsRequest()).models) == version


def test_sigterm_ends_it_with_watchers_connected(start: Callable[..., Any]) -> None:
    server = start("--grace-seconds", "60")
    watch = server.stub().WatchProduction(pb.WatchProductionRequest())
    assert next(watch).WhichOneof("event") == "synced"
    assert server.end(signal.SIGTERM) == 0
    assert list(watch) == []


def test_health_and_metrics_are_served(root: Any, start: Callable[..., Any], tmp_path: Path) -> None:
    server = start("--metrics", "127.0.0.1:0", "--log-format", "json")
    stub = server.stub()
    register(stub, root, 1)
    health = health_pb2_grpc.HealthStub(grpc.insecure_channel(server.address))
    for service in ("", SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    address = re.search(r'"metrics": "([^"]+)"', (tmp_path / "log").read_text())
    assert address
    with urllib.request.urlopen(f"http://{address[1]}/metrics") as response:
        text = response.read().decode()
    assert "videoai_registry_revision 2.0" in text
    assert 'videoai_registry_model_versions{status="staging"} 1.0' in text
    assert 'videoai_registry_changes_total{outcome="done"} 1.0' in text


@STORAGES
def test_two_servers_over_one_folder_follow_each_other(root: Any, start: Callable[..., Any], storage: str) -> None:
    one, two = start("--storage", storage).stub(), start("--storage", storage).stub()
    watch = two.WatchProduction(pb.WatchProductionRequest(model_names=["m"]))
    assert next(watch).WhichOneof("event") == "cleared"
    assert next(watch).WhichOneof("event") == "synced"
    register(one, root, 1)
    register(two, root, 2)
    answer = one.ActivateModelVersion(pb.ActivateModelVersionRequest(model_name="m", version=2))
    message = next(watch)
    while message.WhichOneof("event") != "activated":  # the other's first write brought its uid
        message = next(watch)
    assert (message.activated.model, message.revision) == (answer.model, answer.revision)
    watch.cancel()


@pytest.mark.parametrize(
    ("text", "complaint"), [('{"models": [', "registry.json:1:13"), ('{"models": 1}', "models: expected a list")]
)
def test_it_does_not_start_over_a_file_that_it_cannot_read(root: Any, text: str, complaint: str) -> None:
    root.file.write_text(text)
    done = subprocess.run(
        [*COMMAND, "--root", str(root.path), "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert root.file.read_text() == text


@pytest.mark.parametrize(
    ("flags", "environment", "complaint"),
    [
        (["--root", "/nonexistent"], {}, "--root"),
        (["--listen", "nowhere"], {}, "--listen"),
        (["--rest", "nowhere"], {}, "--rest"),
        ([], {"VIDEOAI_REGISTRY_REST": "nowhere"}, "--rest"),
        (["--storage", "registry.db"], {}, "--storage"),
        ([], {"VIDEOAI_REGISTRY_STORAGE": "mysql://db"}, "--storage"),
        (["serve"], {}, "No such command"),
        (["--max-watchers", "0"], {}, "--max-watchers"),
        (["--lock-timeout", "0"], {}, "--lock-timeout"),
        ([], {"VIDEOAI_REGISTRY_MAX_WATCHER": "3"}, "VIDEOAI_REGISTRY_MAX_WATCHERS"),
        ([], {"VIDEOAI_REGISTRY_MAX_WATCHERS": "x"}, "--max-watchers"),
    ],
)
def test_wrong_settings_are_refused(flags: list[str], environment: dict[str, str], complaint: str) -> None:
    result = CliRunner().invoke(main, flags, env=environment)
    assert result.exit_code == 2
    assert complaint in result.output


def test_it_does_not_start_over_a_foreign_database(root: Any) -> None:
    root.database.write_text("a shopping list")
    command = [*COMMAND, "--root", str(root.path), "--listen", "127.0.0.1:0", "--storage", "sqlite:models/registry.db"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "registry.db: not a sound SQLite database" in done.stderr
    assert "Traceback" not in done.stderr
    assert root.database.read_text() == "a shopping list"


def test_every_flag_has_a_variable() -> None:
    flags = [option for option in main.params if option.name not in ("version", "help")]
    prefixes = ("VIDEOAI_REGISTRY_", "VIDEOAI_ROOT")
    assert [flag.name for flag in flags if not str(flag.envvar).startswith(prefixes)] == []
