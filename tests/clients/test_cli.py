from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from videoai import cli
from videoai.inference.v1 import inference_pb2
from videoai.registry.v1 import registry_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

MODEL = registry_pb2.Model(
    model_name="yolo",
    version=3,
    path="models/yolo/v3/model.onnx",
    status=registry_pb2.MODEL_STATUS_PRODUCTION,
    size_bytes=12_345_678,
    metadata=registry_pb2.ModelMetadata(description="street scenes", metrics={"map": 0.5}),
    inputs=[registry_pb2.TensorSpec(name="images", datatype="FP32", shape=[-1, 3, 640, 640])],
)


def environment(fake: Any, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VIDEOAI_")}
    return clean | {"VIDEOAI_REGISTRY": fake.address, "VIDEOAI_INFERENCE": fake.address} | more


@pytest.fixture
def run(fake: Any) -> Run:
    """Run the command line as a process against `fake`."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "videoai", *arguments]
        return subprocess.run(
            command, env=environment(fake, **more), capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.fixture
def call(fake: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the command line in this process; answers exit code, standard output and standard error."""
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_list_as_table_and_as_json(fake: Any, call: Any) -> None:
    fake.registry.answers["ListModels"] = lambda *_: registry_pb2.ListModelsResponse(models=[MODEL])
    code, out, err = call("models", "list", "--status", "production")
    assert (code, err) == (0, "")
    assert re.search(r"yolo +3 +production +- +12.3 MB +street scenes", out)
    assert fake.registry.requests[0].status == registry_pb2.MODEL_STATUS_PRODUCTION
    code, out, err = call("models", "list", "--output", "json")
    assert (code, err) == (0, "")
    (listed,) = json.loads(out)["models"]
    assert list(json.loads(out)) == ["models"]
    assert (listed["model_name"], listed["version"], listed["size_bytes"]) == ("yolo", 3, "12345678")
    assert call("--output", "json", "models", "list")[1] == out


def test_register_sends_what_was_given(fake: Any, call: Any) -> None:
    fake.registry.answers["RegisterModel"] = lambda *_: registry_pb2.RegisterModelResponse(model=MODEL)
    notes = ["--metric", "map=0.5", "--attribute", 'videoai={"family": "tensors"}', "--description", "d"]
    code, out, _ = call("models", "register", "yolo", MODEL.path, "--version", "3", "--sha256", "ab", *notes)
    assert (code, out) == (0, "registered yolo version 3\n")
    sent = fake.registry.requests[0]
    assert (sent.model_name, sent.path, sent.version, sent.sha256) == ("yolo", MODEL.path, 3, "ab")
    assert sent.metadata.metrics["map"] == 0.5
    assert sent.metadata.attributes["videoai"]["family"] == "tensors"
    assert call("models", "register", "yolo", MODEL.path)[0] == 0
    assert (fake.registry.requests[1].version, fake.registry.requests[1].HasField("sha256")) == (0, False)


@pytest.mark.parametrize("option", [["--metric", "map"], ["--metric", "map=good"], ["--attribute", "a=b"]])
def test_malformed_notes_are_a_usage_error(call: Any, option: list[str]) -> None:
    code, out, err = call("models", "register", "yolo", "p", *option)
    assert (code, out) == (cli.USAGE, "")
    assert f"expected KEY={'NUMBER' if option[0] == '--metric' else 'JSON'}, got '{option[1]}'" in err


NO_TEXT = b"sh\xff".decode(errors="surrogateescape")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["models", "show", NO_TEXT], "expected text in UTF-8, got 'sh\\udcff'"),
        (["models", "watch", NO_TEXT], "expected text in UTF-8"),
        (["models", "activate", "yolo", "1", "--by", NO_TEXT], "expected text in UTF-8"),
        (["models", "register", "yolo", "p", "--description", NO_TEXT], "expected text in UTF-8"),
        (["models", "register", "yolo", "p", "--attribute", 'a="\\ud800"'], "expected text in UTF-8"),
        (["models", "register", "yolo", "p", "--attribute", f"a={'[' * 5000}"], "expected KEY=JSON, got 'a=[["),
        (["models", "register", "yolo", "p", "--version", "2147483648"], "0<=x<=2147483647"),
        (["models", "activate", "yolo", "2147483648"], "1<=x<=2147483647"),
        (["models", "activate", "yolo", "1", "--expect", "2147483648"], "0<=x<=2147483647"),
        (["models", "history", "yolo", "--limit", "99999999999"], "1<=x<=2147483647"),
        (["models", "list", "--timeout", "nan"], "nan is not a finite number"),
        (["models", "list", "--timeout", "1e300"], "x<=31622400"),
        (["models", "list", "--registry", f"unix:{NO_TEXT}"], "expected text in UTF-8"),
        (["analyze", os.devnull, "--iou", "nan"], "nan is not a finite number"),
        (["analyze", os.devnull, "--resume-after-pts", "9223372036854775808"], "x<=9223372036854775807"),
        (["analyze", __file__, "--model", NO_TEXT], "expected text in UTF-8"),
    ],
)
def test_what_no_field_holds_is_a_usage_error(call: Any, arguments: list[str], told: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (cli.USAGE, "")
    assert told in err
    assert len(err.splitlines()) == 1
    assert len(err) < 500


def test_a_terminal_that_takes_no_such_text_is_told(fake: Any, run: Run) -> None:
    model = registry_pb2.Model(model_name="yolo", version=1, metadata=registry_pb2.ModelMetadata(description="über"))
    fake.registry.answers["ListModels"] = lambda *_: registry_pb2.ListModelsResponse(models=[model])
    result = run("models", "list", PYTHONIOENCODING="ascii")
    assert (result.returncode, "set PYTHONIOENCODING=utf-8" in result.stderr) == (1, True)
    assert run("models", "list", PYTHONIOENCODING="utf-8").returncode == 0


def test_show_one_version_or_the_one_in_production(fake: Any, call: Any) -> None:
    fake.registry.answers["GetModel"] = lambda *_: registry_pb2.GetModelResponse(model=MODEL)
    fake.registry.answers["GetProductionModel"] = lambda *_: registry_pb2.GetProductionModelResponse(model=MODEL)
    _, one, _ = call("models", "show", "yolo", "3")
    _, production, _ = call("models", "show", "yolo")
    assert one == production
    assert re.search(r"input +images  FP32  \? x 3 x 640 x 640", one)
    assert re.search(r"metric map +0.5", one)


def test_activate_says_what_changed(fake: Any, call: Any) -> None:
    demoted = registry_pb2.Model(model_name="yolo", version=2)
    answer = registry_pb2.ActivateModelVersionResponse(model=MODEL, demoted=demoted, revision=9)
    fake.registry.answers["ActivateModelVersion"] = lambda *_: answer
    code, out, _ = call("models", "activate", "yolo", "3", "--expect", "2", "--by", "ann")
    assert (code, out) == (0, "yolo version 3 is in production, version 2 before (revision 9)\n")
    assert fake.registry.requests[0].expected_production_version == 2
    assert fake.registry.requests[0].requested_by == "ann"
    assert json.loads(call("models", "activate", "yolo", "3", "--output", "json")[1])["revision"] == "9"
    assert fake.registry.requests[-1].requested_by.endswith(platform.node())


def test_history_tells_who_put_what_into_production(fake: Any, call: Any) -> None:
    records = [
        registry_pb2.Activation(model_name="yolo", previous_version=2, version=1, revision=9, edited=True),
        registry_pb2.Activation(model_name="yolo", version=2, revision=7, requested_by="ann@[build]"),
    ]
    fake.registry.answers["ListActivations"] = lambda *_: registry_pb2.ListActivationsResponse(activations=records)
    code, out, _ = call("models", "history", "yolo", "--limit", "2")
    assert (code, fake.registry.requests[0].limit) == (0, 2)
    assert re.search(r"- +2 +1 +an edit +9 *\n.*- +- +2 +ann@\[build\] +7 *\n", out)
    data = json.loads(call("models", "history", "yolo", "--output", "json")[1])
    assert [item["version"] for item in data["activations"]] == [1, 2]


def test_rollback_archive_and_rollout(fake: Any, call: Any) -> None:
    replica = registry_pb2.Replica(
        instance_id="[/replica-1]",
        seen_version=3,
        running_version=2,
        state=registry_pb2.MODEL_STATE_REJECTED,
        error="bad",
    )
    rollout = registry_pb2.GetRolloutResponse(model_name="yolo", production_version=3, replicas=[replica])
    fake.registry.answers |= {
        "RollbackProduction": lambda *_: registry_pb2.RollbackProductionResponse(model=MODEL, revision=4),
        "ArchiveModelVersion": lambda *_: registry_pb2.ArchiveModelVersionResponse(model=MODEL),
        "GetRollout": lambda *_: rollout,
    }
    assert call("models", "rollback", "yolo")[1] == "yolo version 3 is in production (revision 4)\n"
    assert call("models", "archive", "yolo", "3")[1] == "archived yolo version 3\n"
    _, out, _ = call("models", "rollout", "yolo")
    assert re.search(r"\[/replica-1\] +rejected +3 +2 +- +bad", out)


@pytest.mark.parametrize(
    ("status", "code"),
    [("NOT_FOUND", 3), ("UNAVAILABLE", 4), ("DEADLINE_EXCEEDED", 4), ("FAILED_PRECONDITION", 1), ("INTERNAL", 1)],
)
def test_a_servers_refusal_is_one_line_and_a_code(fake: Any, call: Any, status: str, code: int) -> None:
    def refuse(_: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode[status], "model yolo version 3:\nwhy")

    fake.registry.answers["GetModel"] = refuse
    assert call("models", "show", "yolo", "3") == (code, "", "videoai: model yolo version 3: why\n")


def test_a_registry_that_is_away(fake: Any, run: Run) -> None:
    fake.kill()
    result = run("models", "list")
    assert (result.returncode, result.stdout) == (4, "")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "activate", "yolo", "0"], "0 is not in the range 1<=x<=2147483647"),
        (["models", "list", "--registry", "nowhere"], "expected host:port or unix:path, got 'nowhere'"),
        (["analyze", "none.mp4"], "'none.mp4' does not exist"),
        (["analyze", __file__, "--stride", "2", "--fps", "1"], "--stride and --fps exclude each other"),
        (["analyze", __file__, "--start", "2", "--end", "1"], "--end must come after --start"),
        (["modles"], "No such command 'modles'"),
    ],
)
def test_wrong_usage_is_one_line(call: Any, arguments: list[str], message: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_unknown_variables_are_refused(run: Run) -> None:
    result = run("models", "list", VIDEOAI_REGISTRI="x")
    assert result.returncode == 2
    assert "unknown environment variable VIDEOAI_REGISTRI, did you mean VIDEOAI_REGISTRY?" in result.stderr


def test_a_bad_value_in_the_environment_is_refused(run: Run) -> None:
    result = run("models", "list", VIDEOAI_OUTPUT="yaml")
    assert (result.returncode, result.stdout) == (2, "")
    assert "yaml" in result.stderr


def test_flags_win_over_the_environment(fake: Any, run: Run) -> None:
    fake.registry.answers["ListModels"] = lambda *_: registry_pb2.ListModelsResponse()
    environment = {"VIDEOAI_REGISTRY": "127.0.0.1:1", "VIDEOAI_OUTPUT": "table"}
    before = run("--registry", fake.address, "--output", "json", "models", "list", **environment)
    after = run("models", "list", "--registry", fake.address, "--output", "json", **environment)
    assert json.loads(before.stdout) == json.loads(after.stdout) == {"models": []}


def test_help_tells_the_exit_codes(run: Run) -> None:
    result = run("--help")
    assert result.returncode == 0
    for code in (0, cli.FAILED, cli.USAGE, cli.NOT_FOUND, cli.UNAVAILABLE, cli.INTERRUPTED, cli.PIPE_CLOSED):
        assert re.search(rf"^ +{code}  \w", result.stdout, re.MULTILINE)


def watching(fake: Any, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "videoai", "models", "watch", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment(fake), stdout=pipe, stderr=pipe, text=True)


def test_watch_prints_events_until_interrupted(fake: Any) -> None:
    with watching(fake, "yolo", "--output", "json") as process:
        connection = fake.accept()
        assert list(connection.request.model_names) == ["yolo"]
        connection.activated(5, "yolo", 1, reset=True)
        connection.synced(5, reset=True)
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert first["activated"]["model"]["version"] == 1
    assert (second["synced"], second["revision"], second["reset"]) == ({}, "5", True)
    assert (process.returncode, out, err) == (cli.INTERRUPTED, "", "")


def test_watch_tells_a_lost_connection_in_one_line(fake: Any) -> None:
    with watching(fake) as process:
        fake.accept().synced(5)
        assert process.stdout is not None
        assert process.stderr is not None
        assert "up to date, following changes  (revision 5)" in process.stdout.readline()
        fake.kill()
        assert re.fullmatch(r"videoai: .*; trying again in \d\.\d s\n", process.stderr.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == cli.INTERRUPTED


def test_watch_ends_quietly_when_nobody_reads(fake: Any) -> None:
    with watching(fake) as process:
        connection = fake.accept()
        connection.activated(5, "yolo", 1)
        assert process.stdout is not None
        assert process.stderr is not None
        assert "yolo: version 1 in production" in process.stdout.readline()
        process.stdout.close()
        connection.activated(6, "yolo", 2)
        assert process.wait(timeout=30) == cli.PIPE_CLOSED
        assert process.stderr.read() == ""


def test_status_of_both_servers(fake: Any, run: Run) -> None:
    served = inference_pb2.ServedModel(
        model_name="yolo",
        seen_version=3,
        running_version=3,
        device="cuda:0",
        provider="CUDAExecutionProvider",
        state=inference_pb2.SERVING_STATE_SERVING,
    )
    state = inference_pb2.GetServingStateResponse(instance_id="[/replica-1]", registry_connected=True, models=[served])
    rollout = registry_pb2.GetRolloutResponse(model_name="yolo", production_version=3)
    fake.registry.answers["GetRegistryState"] = lambda *_: registry_pb2.GetRegistryStateResponse(revision=4)
    fake.registry.answers["ListModels"] = lambda *_: registry_pb2.ListModelsResponse(models=[MODEL])
    fake.registry.answers["GetRollout"] = lambda *_: rollout
    fake.inference.answers["GetServingState"] = lambda *_: state
    table, data = run("status"), run("status", "--output", "json")
    assert (table.returncode, data.returncode, table.stderr) == (0, 0, "")
    assert re.search(r"yolo +serving +3 +3 +cuda:0 +CUDAExecutionProvider", table.stdout)
    parsed = json.loads(data.stdout)
    assert parsed["registry"]["production"][0]["version"] == 3
    assert parsed["inference"]["state"]["models"][0]["device"] == "cuda:0"
    problem = "models/registry.json, line 6, column 7: expected ','"
    fake.registry.answers["GetRegistryState"] = lambda *_: registry_pb2.GetRegistryStateResponse(problem=problem)
    degraded = run("status")
    assert degraded.returncode == 1
    assert re.search(r"registry +\S+ +degraded +models/registry.json, line 6, column 7: expected ','", degraded.stdout)
    fake.health.set("", 2)
    assert run("status").returncode == 1
    fake.kill()
    away = run("status")
    assert away.returncode == 4
    assert away.stdout.count("unreachable") == 2
