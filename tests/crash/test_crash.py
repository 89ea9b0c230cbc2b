"""A bounded run of the crash harness, and proof that its oracle sees what it is there to see."""

from __future__ import annotations

import importlib.util
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


oracle, stores = load("oracle"), load("stores")


@pytest.mark.parametrize("servers", [1, 2])
def test_servers_that_are_killed_lose_nothing(servers: int) -> None:
    command = [sys.executable, str(HERE / "crash.py"), "--kills", "12", "--seconds", "6", "--servers", str(servers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    print(done.stdout)
    assert (report["lost"], report["torn"], report["leftover files"]) == (0, 0, 0)
    assert report["kills"] > 0
    assert report["acknowledged changes"] > 0


def grown(rng: random.Random, changes: int) -> Any:
    model = oracle.Model("m", "models/m/model.onnx")
    for _ in range(changes):
        model.choose(rng)
        model.acknowledge()
    return model


def test_the_oracle_allows_the_old_state_and_the_new_one_alone() -> None:
    rng = random.Random(1)  # noqa: S311 - choices, not secrets
    for changes in range(60):
        model = grown(rng, changes)
        old = model.acknowledged
        assert model.problem(old) is None
        change = model.choose(rng)
        assert change.after != old
        assert model.problem(old) is None
        assert model.problem(change.after) is None
        model.acknowledge()
        assert model.problem(old) is not None, "an acknowledged change is gone"


def test_the_oracle_notices_half_a_change() -> None:
    version = oracle.Version
    model = oracle.Model("m", "p", acknowledged={1: version(2, "a"), 2: version(1, "b")})
    model.pending = oracle.Change("c", None, {1: version(1, "a"), 2: version(2, "b")}, repeatable=True)
    assert model.problem({1: version(2, "a"), 2: version(2, "b")}) is not None
    assert model.problem({1: version(1, "a"), 2: version(1, "b")}) is not None


def test_never_more_than_one_version_is_in_production() -> None:
    model = grown(random.Random(2), 300)  # noqa: S311 - choices, not secrets
    assert [v.status for v in model.acknowledged.values()].count(oracle.PRODUCTION) == 1


@pytest.mark.parametrize("text", ["", '{"models": [', '{"models": 1}'])
def test_a_torn_file_is_noticed(tmp_path: Path, text: str) -> None:
    store = stores.store("json", tmp_path)
    assert store.torn() is None
    (tmp_path / "registry.json").write_text(text)
    assert store.torn() is not None


def test_a_leftover_is_noticed(tmp_path: Path) -> None:
    for name in ("registry.json", "registry.json.lock", ".registry.json.tmp"):
        (tmp_path / name).touch()
    assert stores.store("json", tmp_path).leftover() == [".registry.json.tmp"]


def test_databases_are_checked_too(tmp_path: Path) -> None:
    store = stores.store("sqlite:///registry.db", tmp_path)
    assert store.torn() is None
    assert store.flags == ("--storage", f"sqlite:///{tmp_path}/registry.db")
    (tmp_path / "registry.db-wal").touch()
    (tmp_path / "registry.db.tmp").touch()
    assert store.leftover() == ["registry.db.tmp"]
    with pytest.raises(ValueError, match="sqlite:///NAME"):
        stores.store("mysql:///x", tmp_path)
