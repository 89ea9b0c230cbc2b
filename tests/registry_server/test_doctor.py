"""What the registry finds on its own machine: its folder, what is stored there, the files of the models."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from registry_server import doctor, locations, mounts
from registry_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from videoai.cli.findings import Finding


def examine(root: Any, **settings: Any) -> Mapping[str, Finding]:
    return {finding.check: finding for finding in doctor.examine(Settings(root.path, **settings))}


def test_a_sound_folder(example: Any) -> None:
    before = sorted(example.file.parent.iterdir())
    found = examine(example)
    assert {finding.outcome for check, finding in found.items() if check not in ("file system", "space")} == {"ok"}
    assert found["storage"].found == f"{example.file}: 2 versions, 1 in production"
    assert "digests of the 1 in production" in found["model files"].found
    after = sorted(path for path in example.file.parent.iterdir() if not path.name.endswith(".lock"))
    assert after == before


def test_a_folder_is_looked_at_once(example: Any, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(example.path)
    found = [finding.check for finding in doctor.examine(Settings(link))]
    assert len(found) == len(set(found))


def test_a_database(root: Any) -> None:
    location = locations.parse("sqlite:models/registry.db")
    assert "not there yet" in examine(root, storage=location)["storage"].found
    assert not root.database.exists()
    location.under(root.path).open(1).transact(lambda catalog: catalog)
    found = examine(root, storage=location)
    assert (found["storage"].outcome, found["lock"].outcome) == ("ok", "ok")


def test_a_folder_that_is_another(tmp_path: Path) -> None:
    found = {finding.check: finding for finding in doctor.examine(Settings(tmp_path))}
    assert (found["folder"].outcome, found["storage"].outcome) == ("warning", "ok")
    assert list(tmp_path.iterdir()) == []


def test_an_edit_that_cannot_be_read_is_told_with_its_place(example: Any) -> None:
    example.file.write_text(example.file.read_text().replace('"staging"', '"stagnant"'))
    finding = examine(example)["storage"]
    assert finding.outcome == "failed"
    assert finding.found.startswith(f"{example.file}:21:17: status: expected one of")
    assert finding.advice == "mend it, for instance with videoai models edit"


def test_a_folder_that_cannot_be_written(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(doctor.Files, "create", refuse)
    finding = examine(example)["writable"]
    assert (finding.outcome, finding.found) == ("failed", f"{example.file.parent}: Read-only file system")


def test_a_lock_that_is_held(example: Any) -> None:
    with FileLock(f"{example.file}.lock"):
        finding = examine(example, lock_timeout=0.05)["lock"]
    assert finding.outcome == "failed"
    assert f"{example.file}.lock" in finding.found


def test_a_full_disk_and_a_file_system_that_forgets(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 2**62)
    monkeypatch.setattr(mounts, "file_system", lambda _: "tmpfs")
    found = examine(example)
    assert (found["space"].outcome, found["file system"].outcome) == ("warning", "warning")
    assert found["file system"].advice == "what is written there is gone after a restart"


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="only Linux tells what is mounted where")
def test_file_systems_are_told_apart(tmp_path: Path) -> None:
    assert mounts.file_system(Path("/proc/self/status")) == "proc"
    assert mounts.file_system(tmp_path) not in ("", "proc")


def test_model_files_that_changed_or_are_gone(root: Any) -> None:
    paths = {version: root.add_model("m", version) for version in (1, 2, 3)}
    entries = [
        {"model_name": "m", "version": 1, "path": paths[1], "status": "production", "sha256": "ab" * 32},
        {"model_name": "m", "version": 2, "path": paths[2], "status": "staging"},
        {"model_name": "m", "version": 3, "path": paths[3], "status": "archived"},
    ]
    root.file.write_text(json.dumps({"models": entries}))
    for version in (2, 3):
        (root.path / paths[version]).unlink()
    finding = examine(root)["model files"]
    assert finding.outcome == "failed"
    assert f"m version 1: sha256: expected {'ab' * 32} for {paths[1]!r}" in finding.found
    assert "m version 2: " in finding.found
    assert "m version 3" not in finding.found  # an archived one is for the record


def run(root: Any, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "registry_server", "--root", str(root.path), "doctor", *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VIDEOAI_")}
    return subprocess.run(command, env={**clean, **variables}, capture_output=True, text=True, check=False, timeout=100)


def test_as_a_command(example: Any) -> None:
    outcome = run(example, VIDEOAI_REGISTRY_MAX_WATCHERS="5")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "VIDEOAI_REGISTRY_MAX_WATCHERS" in outcome.stdout
    example.file.write_text("{")
    outcome = run(example, "--json", VIDEOAI_REGISTRY_MAX_WATCHER="5")
    assert (outcome.returncode, outcome.stderr) == (1, "")
    found = {finding["check"]: finding for finding in json.loads(outcome.stdout)["findings"]}
    assert (found["storage"]["outcome"], found["environment"]["outcome"]) == ("failed", "failed")
    assert "did you mean VIDEOAI_REGISTRY_MAX_WATCHERS?" in found["environment"]["found"]
