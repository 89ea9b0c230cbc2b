"""--wait: follow an activation until the replicas have made something of it, and go back if one refused it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.live import Live

from videoai.cli import output, show
from videoai.cli.options import COUNT, SOME_SECONDS
from videoai.errors import DeadlineExceeded, VideoAIError
from videoai.registry.v1 import registry_pb2
from videoai.rollout import Outcome, revision_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from videoai import RegistryClient
    from videoai.cli.options import Settings
    from videoai.rollout import Change, Verdict

Function = TypeVar("Function", bound="Callable[..., Any]")


def wait_options(function: Function) -> Function:
    """Add --wait, --wait-timeout and --replicas."""
    text = "With --wait: give up after this long.  [default: 300]"
    text_replicas = "With --wait: and until at least so many replicas have."
    function = click.option("--replicas", type=COUNT, metavar="N", help=text_replicas)(function)
    function = click.option("--wait-timeout", type=SOME_SECONDS, default=300.0, metavar="SECONDS", help=text)(function)
    return click.option("--wait", is_flag=True, help="Wait until every live replica has applied it.")(function)


def until_applied(
    settings: Settings,
    registry: RegistryClient,
    change: Change,
    seconds: float,
    replicas: int | None,
    *,
    go_back: bool = False,
    by: str = "",
) -> None:
    """Follow `change` and print the final rollout. Raises what ends the command with the exit code that tells of it."""
    verdict = _follow(registry, change, seconds, replicas or 0)
    if verdict.outcome is Outcome.REJECTED and go_back:
        verdict, problem = _back(registry, change, verdict, seconds, by)
    else:
        problem = _problem(change, verdict)
    if settings.json:
        output.print_json(verdict.rollout)
    else:
        show.replicas(verdict.rollout)
    if problem and verdict.outcome is Outcome.WAITING and not go_back:
        raise DeadlineExceeded(problem)
    if problem:
        raise click.ClickException(problem)
    if verdict.outcome is Outcome.NO_REPLICAS:
        click.echo("videoai: no replica is live; the next one to come will load the version", err=True)


def _back(registry: RegistryClient, change: Change, verdict: Verdict, seconds: float, by: str) -> tuple[Verdict, str]:
    """Activate the demoted version again; return the last verdict and all that went wrong."""
    problem = _problem(change, verdict)
    if not change.HasField("demoted"):
        return verdict, f"{problem}; there is no version before it to go back to"
    name, before = change.model.model_name, change.demoted.version
    try:
        undone = registry.activate(name, before, expected_production_version=change.model.version, requested_by=by)
        last = _follow(registry, undone, seconds, 0)
    except VideoAIError as error:
        return verdict, f"{problem}; did not go back to version {before}: {error.details}"
    trouble = _problem(undone, last)
    return last, f"{problem}; went back to version {before}" + (f", but {trouble}" if trouble else "")


def _problem(change: Change, verdict: Verdict) -> str:
    """Say what is wrong with a final verdict; nothing if all is well."""
    what = f"{change.model.model_name} version {change.model.version}"
    match verdict.outcome:
        case Outcome.REJECTED:
            reasons = "; ".join(f"{item.instance_id}: {item.error}" for item in verdict.rejected)
            return f"{what} was rejected by {reasons}"
        case Outcome.SUPERSEDED:
            now = verdict.rollout.production_version
            return f"{what} is not in production any more, {f'version {now}' if now else 'no version'} is"
        case Outcome.WAITING:
            who = ", ".join(item.instance_id for item in verdict.missing)
            live = len(verdict.rollout.replicas)
            return f"{what} was not applied in time; still missing: {who or f'replicas, for only {live} are live'}"
        case _:
            return ""


def _follow(registry: RegistryClient, change: Change, seconds: float, replicas: int) -> Verdict:
    click.echo(show.changed(change), err=True)
    name, version, revision = change.model.model_name, change.model.version, revision_of(change)
    console = output.console(to_stderr=True)
    if not console.is_terminal:
        tell = _Lines()
        return registry.wait_for_rollout(
            name, version, revision=revision, replicas=replicas, timeout_seconds=seconds, on_change=tell
        )
    with Live(console=console, transient=True) as live:
        return registry.wait_for_rollout(
            name,
            version,
            revision=revision,
            replicas=replicas,
            timeout_seconds=seconds,
            on_change=lambda verdict: live.update(show.replica_table(verdict.rollout)),
        )


class _Lines:
    """Writes a line for each replica whose progress changed."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, verdict: Verdict) -> None:
        lines = set(_progress(verdict.rollout.replicas))
        for line in sorted(lines - self._told):
            click.echo(line, err=True)
        self._told = lines


def _progress(replicas: Iterable[registry_pb2.Replica]) -> Iterable[str]:
    for item in replicas:
        state = output.word(registry_pb2.ModelState.Name(item.state), "MODEL_STATE_")
        seen = f"version {item.seen_version} {state}" if item.seen_version else "nothing reported yet"
        yield f"{item.instance_id}: {seen}"
