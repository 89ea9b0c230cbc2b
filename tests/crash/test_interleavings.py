"""A bounded run of random interleavings, and proof that the checker tells possible histories from impossible ones."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent


def load(name: str) -> ModuleType:
    """Import a module that lies beside this one."""
    spec = importlib.util.spec_from_file_location(f"crash_{name}", HERE / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


linear = load("linear")
Event, linearizable = linear.Event, linear.linearizable
TWO = frozenset({(1, "staging"), (2, "staging")})


@pytest.mark.parametrize(
    "flags",
    [("--servers", "2"), ("--servers", "1", "--callers", "6", "--edits", "0")],
    ids=["two servers and a person", "one server and its reads"],
)
def test_what_callers_see_happened_in_some_order(flags: tuple[str, ...]) -> None:
    command = [sys.executable, str(HERE / "interleave.py"), "--rounds", "4", "--seconds", "6", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["rounds"] > 0
    assert report["events"]["activate OK"] > 0
    unknown = {outcome for outcome in report["events"] if outcome.split()[1] in ("UNAVAILABLE", "INTERNAL", "UNKNOWN")}
    assert unknown == set()


def one_after_the_other(rng: random.Random, count: int) -> list[Any]:
    """A history that happened: each event with the outcome that it had, and times that overlap."""
    versions: dict[int, str] = {}
    events = []
    for moment in range(count):
        call = rng.choice(("register", "activate", "activate", "archive", "read"))
        expected = rng.choice((None, 0, 1, 2)) if call == "activate" else None
        asked = Event(moment - rng.random() * 3, moment + rng.random() * 3, call, rng.randint(1, 3), expected)
        outcome, demoted = linear.expected_outcome(versions, asked)
        found = frozenset(versions.items()) if call == "read" else None
        if outcome == "OK":
            linear.change(versions, asked)
        demoted = demoted if call == "activate" else 0
        events.append(Event(asked.start, asked.end, call, asked.version, expected, outcome, demoted, found))
    rng.shuffle(events)
    return events


@pytest.mark.parametrize("seed", range(20))
def test_what_happened_is_recognised(seed: int) -> None:
    assert linearizable(one_after_the_other(random.Random(seed), 60))  # noqa: S311 - choices, not secrets


def test_a_change_that_was_lost_is_noticed() -> None:
    events = [Event(0, 1, "register", 1), Event(2, 3, "activate", 1, outcome="NOT_FOUND")]
    assert not linearizable(events)
    assert linearizable([events[0], Event(0.5, 3, "activate", 1, outcome="NOT_FOUND")]), "they overlapped"


def test_two_that_both_replaced_the_same_version_are_noticed() -> None:
    first = Event(0, 1, "activate", 1)
    assert linearizable([first, Event(2, 5, "activate", 2, demoted=1), Event(2, 5, "activate", 1, demoted=2)], TWO)
    for one, other in itertools.permutations((1, 2)):
        both = [Event(2, 5, "activate", one, expected=0), Event(2, 5, "activate", other, expected=0)]
        assert not linearizable(both, TWO)


def test_a_read_of_the_past_is_noticed() -> None:
    after = frozenset({(1, "production"), (2, "staging")})
    assert linearizable([Event(0, 1, "activate", 1), Event(2, 3, "read", found=after)], TWO)
    assert linearizable([Event(0, 2.5, "activate", 1), Event(2, 3, "read", found=TWO)], TWO)
    assert not linearizable([Event(0, 1, "activate", 1), Event(2, 3, "read", found=TWO)], TWO)


def test_an_edit_that_was_overwritten_is_noticed() -> None:
    edit = Event(0, 1, "edit", 2, found=TWO)
    assert linearizable([edit, Event(2, 3, "activate", 1, demoted=2)], TWO)
    assert not linearizable([edit, Event(2, 3, "activate", 1)], TWO)


def test_two_in_production_are_noticed() -> None:
    with pytest.raises(AssertionError, match="are in production"):
        linear.in_production({1: "production", 2: "production"})
