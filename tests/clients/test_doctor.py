"""videoai doctor: what it finds on this machine and about the two servers, and how it ends."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from packaging.requirements import Requirement
from videoai import cli
from videoai.cli import findings, machine, programs
from videoai.cli.findings import Finding
from videoai.inference.v1 import inference_pb2
from videoai.registry.v1 import registry_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Examine = Callable[..., tuple[int, Mapping[tuple[str, str], Mapping[str, str]]]]

DIGEST = "ab" * 32
PRODUCTION = registry_pb2.Model(
    model_name="yolo", version=3, sha256=DIGEST, status=registry_pb2.MODEL_STATUS_PRODUCTION
)


def now(ahead_seconds: float = 0) -> Timestamp:
    return Timestamp(seconds=int(time.time() + ahead_seconds))


@pytest.fixture
def examine(fake: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Examine:
    """Examine this machine and `fake`, which is healthy unless a test scripts it otherwise, but no server's folders."""
    served = inference_pb2.ServedModel(model_name="yolo", running_version=3, running_sha256=DIGEST, device="cpu")
    state = inference_pb2.GetServingStateResponse(
        instance_id="edge-1", registry="r:1", registry_connected=True, models=[served], current_timestamp=now()
    )
    replica = registry_pb2.Replica(instance_id="edge-1")
    fake.registry.answers["GetRegistryState"] = lambda *_: registry_pb2.GetRegistryStateResponse(
        registry_uid="u", revision=7, storage="file:models/registry.json", current_timestamp=now()
    )
    fake.registry.answers["ListModels"] = lambda *_: registry_pb2.ListModelsResponse(models=[PRODUCTION])
    fake.registry.answers["GetRollout"] = lambda *_: registry_pb2.GetRolloutResponse(replicas=[replica])
    fake.inference.answers["GetServingState"] = lambda *_: state
    fake.state = state
    monkeypatch.setattr(programs, "installed", lambda _: False)
    monkeypatch.setenv("VIDEOAI_REGISTRY", fake.address)
    monkeypatch.setenv("VIDEOAI_INFERENCE", fake.address)

    def examine(*arguments: str) -> Any:
        code = cli.run(["doctor", "--output", "json", *arguments])
        told = json.loads(capsys.readouterr().out)
        assert told["healthy"] == (code == 0)
        return code, {(finding["topic"], finding["check"]): finding for finding in told["findings"]}

    return examine


def test_a_sound_set_up_ends_with_0(examine: Examine, fake: Any) -> None:
    code, found = examine()
    assert code == 0
    assert {finding["outcome"] for finding in found.values()} <= {"ok", "not installed"}
    assert found["registry server", "answers"]["found"] == f"{fake.address} is serving"
    assert found["registry server", "storage"]["found"].startswith("file:models/registry.json: revision 7")
    assert found["inference server", "follows"]["found"] == "edge-1 follows r:1"
    assert found["inference server", "model yolo"]["found"].endswith("as the registry has it")
    assert found["this machine", "environment"]["found"] == "VIDEOAI_INFERENCE, VIDEOAI_REGISTRY"
    assert found["the registry's folder", "looked at"]["outcome"] == "not installed"
    assert found["devices and decoders", "looked at"]["outcome"] == "not installed"


def test_the_table_says_what_to_do(
    examine: Examine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDEOAI_REGISTRI", "x")
    assert cli.run(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.strip().startswith("environment"))
    assert "failed" in lines[at]
    assert "unknown environment variable VIDEOAI_REGISTRI, did you mean VIDEOAI_REGISTRY?" in lines[at]
    assert lines[at + 1].strip().startswith("→ unset or rename")


def test_servers_that_cannot_be_reached_end_with_4(examine: Examine, fake: Any) -> None:
    fake.kill()
    code, found = examine("--timeout", "5")
    assert code == 4
    for server in ("registry", "inference"):
        finding = found[f"{server} server", "answers"]
        assert (finding["outcome"], finding["advice"][:8]) == ("unreachable", "start it")
        assert fake.address in finding["found"]
    fake.start()


def test_a_failure_counts_more_than_a_server_that_is_away() -> None:
    away, failed = (Finding("t", "c", outcome, "f") for outcome in ("unreachable", "failed"))
    assert findings.exit_code([away]) == 4
    assert findings.exit_code([away, failed]) == 1
    assert findings.exit_code([Finding("t", "c", "warning", "f"), Finding("t", "c", "not installed", "f")]) == 0


def test_what_the_registry_refuses_is_told(examine: Examine, fake: Any) -> None:
    problem = "models/registry.json, line 3, column 5: expected a string"
    fake.registry.answers["GetRegistryState"] = lambda *_: registry_pb2.GetRegistryStateResponse(problem=problem)
    code, found = examine()
    assert (code, found["registry server", "storage"]["found"]) == (1, problem)
    assert ("registry server", "clock") not in found  # it did not tell its time


@pytest.mark.parametrize(("ahead", "said"), [(3600, "ahead of"), (-3600, "behind")])
def test_clocks_that_differ_are_told(examine: Examine, fake: Any, ahead: float, said: str) -> None:
    fake.state.current_timestamp.CopyFrom(now(ahead))
    code, found = examine()
    clock = found["inference server", "clock"]
    assert (code, clock["outcome"]) == (0, "warning")
    assert said in clock["found"]
    assert 3500 < float(clock["found"].split()[0]) < 3700


def change(fake: Any, **values: Any) -> None:
    for name, value in values.items():
        setattr(fake.state.models[0], name, value)


@pytest.mark.parametrize(
    ("values", "outcome", "said"),
    [
        ({"running_version": 2}, "warning", "but 3 is in production"),
        ({"running_version": 0}, "warning", "no version runs yet"),
        ({"last_error": "no such operator"}, "failed", "refused: no such operator"),
        ({"running_sha256": "cd" * 32}, "failed", "of other bytes"),
    ],
)
def test_a_model_that_is_not_as_it_should_be(
    examine: Examine, fake: Any, values: Mapping[str, Any], outcome: str, said: str
) -> None:
    change(fake, **values)
    code, found = examine()
    finding = found["inference server", "model yolo"]
    assert (code, finding["outcome"]) == (int(outcome == "failed"), outcome)
    assert said in finding["found"]


def test_an_inference_server_of_another_registry_is_found_out(examine: Examine, fake: Any) -> None:
    other = registry_pb2.GetRolloutResponse(replicas=[registry_pb2.Replica(instance_id="edge-2")])
    fake.registry.answers["GetRollout"] = lambda *_: other
    code, found = examine()
    assert code == 1
    assert f"which is not the registry at {fake.address}" in found["inference server", "follows"]["found"]
    fake.state.registry_connected = False
    assert "edge-1 is not connected to r:1" in examine()[1]["inference server", "follows"]["found"]


def test_a_server_that_is_something_else_is_told(examine: Examine, fake: Any) -> None:
    del fake.registry.answers["GetRegistryState"]
    code, found = examine()
    assert (code, found["registry server", "answers"]["outcome"]) == (1, "failed")


# What the servers' own programs find is theirs to test; how they are asked is tested here.


def answering(out: str, err: str = "", code: int = 0) -> Callable[..., Any]:
    return lambda *_: subprocess.CompletedProcess([], code, out, err)


def test_the_servers_findings_are_taken_over(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    found = findings.as_dict([Finding("devices and decoders", "cpu", "failed", "f")])

    def ask(program: str, arguments: list[str], _: float) -> Any:
        asked.append((program, arguments))
        return subprocess.CompletedProcess([], 1, json.dumps(found), "")

    monkeypatch.setattr(programs, "installed", lambda _: True)
    monkeypatch.setattr(programs, "ask", ask)
    assert examine("--root", "/srv", "--device", "cuda:1")[0] == 1
    assert asked == [
        ("registry_server", ["--root", "/srv", "doctor", "--json"]),
        ("inference_server", ["--root", "/srv", "--device", "cuda:1", "doctor", "--json"]),
    ]


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (answering("", "Usage: x\nError: Invalid value for '--device': y", 2), "Invalid value for '--device': y"),
        (answering("", "", -11), "it ended with -11"),
        (answering('{"findings": [{"odd": 1}]}'), "it ended with 0"),
    ],
)
def test_a_server_program_that_cannot_look_is_told(
    examine: Examine, monkeypatch: pytest.MonkeyPatch, ask: Callable[..., Any], said: str
) -> None:
    monkeypatch.setattr(programs, "installed", lambda program: program == "inference_server")
    monkeypatch.setattr(programs, "ask", ask)
    code, found = examine()
    assert (code, found["devices and decoders", "looked at"]["found"]) == (1, said)


def test_a_server_program_that_hangs_is_given_up(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(programs, "installed", lambda program: program == "inference_server")
    monkeypatch.setattr(programs, "_command", lambda *_: hang)
    # The package has the command under its module's name.
    monkeypatch.setattr(sys.modules["videoai.cli.doctor"], "PATIENCE_SECONDS", 0.2)
    assert "had not looked at it" in examine()[1]["devices and decoders", "looked at"]["found"]


def test_it_runs_where_the_client_alone_is_installed(fake: Any, examine: Examine) -> None:
    absent = ("filelock", "onnx", "onnxruntime", "watchfiles", "structlog", "av", "numpy", "PIL", "grpc_health")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}));"
        "from videoai.cli import main; main(['doctor', '--output', 'json'])"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (process.returncode, process.stderr) == (0, "")
    told = {finding["topic"]: finding["outcome"] for finding in json.loads(process.stdout)["findings"]}
    assert told["the registry's folder"] == told["devices and decoders"] == "not installed"


NEEDS = ["click>=8.2", "x; python_version < '3'", "av>=18; extra == 'video'", "videoai[video]; extra == 'all'"]
INSTALLED = {
    "videoai": ("0.1", NEEDS),
    "click": ("8.3", ["colorama; os_name == 'nt'"]),
    "av": ("18.0", ["numpy"]),
}


@pytest.mark.parametrize(
    ("requirement", "changed", "expected"),
    [
        ("videoai", {}, []),
        ("videoai", {"click": ("8.1", [])}, ["click>=8.2, but 8.1 is installed"]),
        ("videoai[video]", {}, []),
        ("videoai[video]", {"av": None}, ["av"]),
        ("videoai[all]", {"av": ("17.1", [])}, ["av>=18, but 17.1 is installed"]),
        ("videoai[video]", {"click": None}, []),  # the client's own, told once and elsewhere
    ],
)
def test_requirements_are_read_as_pip_does(
    monkeypatch: pytest.MonkeyPatch, requirement: str, changed: Mapping[str, Any], expected: list[str]
) -> None:
    def distribution(name: str) -> Any:
        if (found := (INSTALLED | changed).get(name)) is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return SimpleNamespace(version=found[0], requires=found[1])

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    assert list(machine.unmet(Requirement(requirement))) == expected


def test_messages_implemented_in_python_are_slow_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.api_implementation, "Type", lambda: "python")
    found = {finding.check: finding for finding in machine.examine(click.Command("x"))}
    assert found["protobuf"].outcome == "warning"


def test_a_python_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "python_version", lambda: "3.10.2")
    found = {finding.check: finding for finding in machine.examine(click.Command("x"))}
    assert (found["python"].outcome, found["python"].advice) == ("failed", "videoai needs Python >=3.11")
