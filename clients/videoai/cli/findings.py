"""What an examination finds: one line each, with what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from videoai.cli import output

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Outcome = Literal["ok", "warning", "failed", "unreachable", "not installed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    `topic`: what it is part of, for instance "this machine". `outcome`: "warning" is worth knowing and stops nothing;
    "failed" and "unreachable" stop something. `advice`: what to do, empty where nothing is to be done.
    """

    topic: str
    check: str
    outcome: Outcome
    found: str
    advice: str = ""


def as_dict(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as one JSON object."""
    return {"healthy": exit_code(findings) == 0, "findings": [asdict(finding) for finding in findings]}


def from_dict(told: Mapping[str, Any]) -> list[Finding]:
    """Read what as_dict wrote. Raises KeyError or TypeError for anything else."""
    return [Finding(**finding) for finding in told["findings"]]


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0 if nothing failed, 4 if no more than a server that cannot be reached, 1 otherwise."""
    outcomes = {finding.outcome for finding in findings}
    return 1 if "failed" in outcomes else 4 if "unreachable" in outcomes else 0


def tell(findings: Sequence[Finding], *, json: bool) -> None:
    """Print the findings: one JSON object, or a table for each topic and what to do below it."""
    if json:
        output.print_json(as_dict(findings))
        return
    for topic, group in groupby(findings, lambda finding: finding.topic):
        rows = [row for finding in group for row in _rows(finding)]
        output.print_table(topic, ("CHECK", "RESULT", "FOUND, AND WHAT TO DO"), rows)


def _rows(finding: Finding) -> Iterator[tuple[str, str, str]]:
    yield finding.check, finding.outcome, finding.found
    if finding.advice:
        yield " ", " ", f"→ {finding.advice}"
