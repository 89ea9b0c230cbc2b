"""Waiting for a rollout: the decision, both clients, and the command line, against scripted registries."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from videoai import cli
from videoai.registry.v1 import registry_pb2 as pb
from videoai.rollout import Outcome, judge, revision_of

if TYPE_CHECKING:
    from collections.abc import Callable

LOADING, APPLIED, REJECTED = pb.MODEL_STATE_LOADING, pb.MODEL_STATE_APPLIED, pb.MODEL_STATE_REJECTED


def replica(name: str, state: pb.ModelState.ValueType, version: int = 2, revision: int = 7) -> pb.Replica:
    error = "no such file" if state == REJECTED else ""
    return pb.Replica(instance_id=name, seen_version=version, state=state, revision=revision, error=error)


def rollout(*replicas: pb.Replica, version: int = 2, revision: int = 7) -> pb.GetRolloutResponse:
    return pb.GetRolloutResponse(
        model_name="yolo", production_version=version, revision=revision, replicas=list(replicas)
    )


@pytest.mark.parametrize(
    ("seen", "had_replicas", "outcome"),
    [
        (rollout(replica("a", APPLIED), replica("b", APPLIED, revision=9)), False, Outcome.APPLIED),
        (rollout(replica("a", APPLIED), replica("b", LOADING)), False, Outcome.WAITING),
        (rollout(replica("a", APPLIED), replica("b", APPLIED, version=1)), False, Outcome.WAITING),
        (rollout(replica("a", APPLIED, revision=6)), False, Outcome.WAITING),
        (rollout(replica("a", REJECTED, revision=6)), False, Outcome.WAITING),
        (rollout(replica("a", LOADING), replica("b", REJECTED)), False, Outcome.REJECTED),
        (rollout(replica("a", APPLIED), version=3, revision=8), False, Outcome.SUPERSEDED),
        (rollout(replica("a", APPLIED, version=1), version=1, revision=6), False, Outcome.WAITING),
        (rollout(), False, Outcome.NO_REPLICAS),
        (rollout(), True, Outcome.WAITING),
    ],
)
def test_the_decision(seen: pb.GetRolloutResponse, had_replicas: bool, outcome: Outcome) -> None:
    assert judge(seen, 2, 7, had_replicas=had_replicas).outcome is outcome


def test_replicas_that_have_yet_to_come_back_are_waited_for_if_they_are_counted() -> None:
    one, two = rollout(replica("a", APPLIED)), rollout(replica("a", APPLIED), replica("b", APPLIED))
    looks = [judge(seen, 2, 7, had_replicas=False, replicas=2).outcome for seen in (rollout(), one, two)]
    assert looks == [Outcome.WAITING, Outcome.WAITING, Outcome.APPLIED]


def test_an_activation_that_changed_nothing_counts_what_was_reported_before() -> None:
    model = pb.Model(model_name="yolo", version=2)
    assert revision_of(pb.ActivateModelVersionResponse(model=model, revision=9)) == 0
    assert revision_of(pb.ActivateModelVersionResponse(model=model, demoted=model, revision=9)) == 9


def script(fake: Any, *looks: pb.GetRolloutResponse | grpc.StatusCode) -> None:
    """Answer GetRollout with each of `looks`, the last one for ever."""
    left = list(looks)

    def answer(_: Any, context: grpc.ServicerContext) -> pb.GetRolloutResponse:
        look = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(look, grpc.StatusCode):
            context.abort(look, "scripted")
        assert isinstance(look, pb.GetRolloutResponse)
        return look

    fake.registry.answers["GetRollout"] = answer


async def test_both_clients_wait_and_tell_each_change(fake: Any, registry: Any) -> None:
    start = rollout(replica("a", LOADING), replica("b", LOADING))
    half = rollout(replica("a", APPLIED), replica("b", LOADING))
    # b leaves, and the registry is away for a moment: neither ends the wait.
    script(fake, start, start, half, grpc.StatusCode.DEADLINE_EXCEEDED, rollout(), rollout(replica("a", APPLIED)))
    told: list[Any] = []
    wait = {"revision": 7, "interval_seconds": 0.001, "on_change": told.append}
    verdict = await registry("wait_for_rollout", "yolo", 2, **wait)
    assert verdict.outcome is Outcome.APPLIED
    assert [len(item.missing) for item in told] == [2, 1, 0, 0]


async def test_both_clients_give_up_in_time(fake: Any, registry: Any) -> None:
    script(fake, rollout(replica("a", LOADING)))
    verdict = await registry("wait_for_rollout", "yolo", 2, revision=7, timeout_seconds=0.01)
    assert (verdict.outcome, [item.instance_id for item in verdict.missing]) == (Outcome.WAITING, ["a"])


def activation(version: int, before: int, revision: int) -> pb.ActivateModelVersionResponse:
    demoted = pb.Model(model_name="yolo", version=before) if before else None
    return pb.ActivateModelVersionResponse(
        model=pb.Model(model_name="yolo", version=version), demoted=demoted, revision=revision
    )


@pytest.fixture
def call(fake: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    monkeypatch.setenv("VIDEOAI_REGISTRY", fake.address)
    fake.registry.answers["ActivateModelVersion"] = lambda *_: activation(2, 1, 7)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["models", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_progress_on_stderr_and_the_rollout_on_stdout(fake: Any, call: Any) -> None:
    script(fake, rollout(replica("a", LOADING)), rollout(replica("a", APPLIED)))
    code, out, err = call("activate", "yolo", "2", "--wait", "--output", "json")
    assert (code, json.loads(out)["replicas"][0]["state"]) == (0, "MODEL_STATE_APPLIED")
    assert err.splitlines()[1:] == ["a: version 2 loading", "a: version 2 applied"]


def test_rollback_waits_too(fake: Any, call: Any) -> None:
    back = activation(1, 2, 8)
    fake.registry.answers["RollbackProduction"] = lambda *_: pb.RollbackProductionResponse(
        model=back.model, demoted=back.demoted, revision=8
    )
    script(fake, rollout(replica("a", APPLIED, version=1, revision=8), version=1, revision=8))
    code, out, err = call("rollback", "yolo", "--wait")
    assert (code, "version 1 in production" in out, "a: version 1 applied" in err) == (0, True, True)


@pytest.mark.parametrize(
    ("last", "code", "said"),
    [
        (rollout(), 0, "no replica is live"),
        (rollout(replica("a", REJECTED)), cli.FAILED, "version 2 was rejected by a: no such file"),
        (rollout(version=3, revision=8), cli.FAILED, "not in production any more, version 3 is"),
        (rollout(replica("a", LOADING)), cli.UNAVAILABLE, "not applied in time; still missing: a"),
    ],
)
def test_how_a_wait_ends(fake: Any, call: Any, last: pb.GetRolloutResponse, code: int, said: str) -> None:
    script(fake, last)
    ended, _, err = call("activate", "yolo", "2", "--wait", "--wait-timeout", "0.01")
    assert (ended, said in err.splitlines()[-1]) == (code, True), err


def going_back(fake: Any, request: Any, context: grpc.ServicerContext) -> pb.ActivateModelVersionResponse:
    """Put 2 into production, which a rejects; then 1, which it applies."""
    if request.version == 2:
        script(fake, rollout(replica("a", REJECTED)))
        return activation(2, 1, 7)
    assert request.expected_production_version == 2
    script(fake, rollout(replica("a", APPLIED, version=1, revision=8), version=1, revision=8))
    return activation(1, 2, 8)


def test_a_rejected_version_gives_way_to_the_one_before(fake: Any, call: Any) -> None:
    fake.registry.answers["ActivateModelVersion"] = lambda *given: going_back(fake, *given)
    code, out, err = call("activate", "yolo", "2", "--wait", "--rollback-on-failure")
    assert (code, "version 1 in production" in out) == (cli.FAILED, True)
    assert err.splitlines()[-1].endswith("rejected by a: no such file; went back to version 1")


def test_a_newer_activation_is_not_undone(fake: Any, call: Any) -> None:
    def activate(request: Any, context: grpc.ServicerContext) -> pb.ActivateModelVersionResponse:
        if request.version == 1:
            context.abort(grpc.StatusCode.ABORTED, "version 3 is in production")
        return activation(2, 1, 7)

    fake.registry.answers["ActivateModelVersion"] = activate
    script(fake, rollout(replica("a", REJECTED)))
    code, _, err = call("activate", "yolo", "2", "--wait", "--rollback-on-failure")
    assert code == cli.FAILED
    assert err.splitlines()[-1].endswith("; did not go back to version 1: version 3 is in production")


def test_the_first_version_has_none_to_go_back_to(fake: Any, call: Any) -> None:
    fake.registry.answers["ActivateModelVersion"] = lambda *_: activation(2, 0, 7)
    script(fake, rollout(replica("a", REJECTED)))
    code, _, err = call("activate", "yolo", "2", "--wait", "--rollback-on-failure")
    assert (code, "there is no version before it to go back to" in err) == (cli.FAILED, True)


def test_going_back_needs_a_wait(call: Any) -> None:
    assert call("activate", "yolo", "2", "--rollback-on-failure")[0] == cli.USAGE


def test_an_interrupt_ends_the_wait_and_not_the_rollout(fake: Any) -> None:
    fake.registry.answers["ActivateModelVersion"] = lambda *_: activation(2, 1, 7)
    script(fake, rollout(replica("a", LOADING)))
    command = [sys.executable, "-m", "videoai", "--registry", fake.address]
    command += ["models", "activate", "yolo", "2", "--wait", "--rollback-on-failure"]
    with subprocess.Popen(command, env=os.environ.copy(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "a: version 2 loading" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == cli.INTERRUPTED
    assert [item.version for item in fake.registry.requests if isinstance(item, pb.ActivateModelVersionRequest)] == [2]
