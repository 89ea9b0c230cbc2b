"""videoai-registry edit, with real editors: small programs that change the file they are given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from videoai.registry.v1 import registry_pb2 as pb

Edit = Callable[..., "subprocess.Popen[str]"]

DESCRIPTION = "s/Initial YOLOv8/First YOLOv8/"
BROKEN = 's/"version": 1,/"version": 1/'


@pytest.fixture
def edit(example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """A function that starts editing; each of the scripts is what the editor does when it is opened once more."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("VISUAL", raising=False)

    def run(*scripts: str, program: str = "registry_server", flags: Sequence[str] = ()) -> subprocess.Popen[str]:
        for number, script in enumerate(scripts):
            (tmp_path / f"todo-{number}").write_text(script)
        editor = tmp_path / "editor"
        editor.write_text(
            f'#!/bin/sh\nscript=$(ls {tmp_path}/todo-* | head -n 1)\nmv "$script" "$script.done"; '
            f'mv "$script.done" {tmp_path}/done\n. {tmp_path}/done\n'
        )
        editor.chmod(0o755)
        arguments = ["edit"] if program == "registry_server" else ["models", "edit"]
        flags = ["--root", str(example.path), *flags]
        command = [*flags, *arguments] if program == "registry_server" else [*arguments, *flags]
        return subprocess.Popen(
            [sys.executable, "-m", program, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "EDITOR": str(editor)},
        )

    return run


def sed(expression: str) -> str:
    return f"sed -i '{expression}' \"$1\""


def leftovers(example: Any, tmp_path: Path) -> list[str]:
    beside = [path.name for path in example.file.parent.iterdir() if path.name.startswith(".")]
    return [*beside, *(path.name for path in (tmp_path / "tmp").iterdir())]


@pytest.mark.parametrize("program", ["registry_server", "videoai"])
def test_an_edit_is_put_in_place_as_it_is(example: Any, edit: Edit, tmp_path: Path, program: str) -> None:
    example.file.chmod(0o640)
    before = example.text()
    out, err = (running := edit(sed(DESCRIPTION), program=program)).communicate(timeout=60)
    assert (running.returncode, out, err) == (0, f"{example.file} was replaced\n", "")
    assert example.text() == before.replace("Initial YOLOv8", "First YOLOv8")
    assert example.file.stat().st_mode & 0o777 == 0o640
    assert leftovers(example, tmp_path) == []


def test_a_mistake_is_told_and_edited_again(example: Any, edit: Edit) -> None:
    mended = sed('s/"version": 1$/"version": 1,/') + "; " + sed(DESCRIPTION)
    out, err = (running := edit(sed(BROKEN), mended)).communicate("e\n", timeout=60)
    assert (running.returncode, "was replaced" in out) == (0, True)
    assert "line 6, column 7: not valid JSON" in err
    assert "First YOLOv8" in example.text()


def test_a_mistake_can_be_given_up(example: Any, edit: Edit, tmp_path: Path) -> None:
    before = example.text()
    two = sed('s/"staging"/"production"/')
    out, err = (running := edit(two)).communicate("q\n", timeout=60)
    assert (running.returncode, out) == (0, "nothing was changed\n")
    assert "model 'yolov8n-coco' has two versions in production, 1 and 2" in err
    assert (example.text(), leftovers(example, tmp_path)) == (before, [])


def test_a_file_that_cannot_be_read_can_be_mended(example: Any, edit: Edit) -> None:
    text = example.text()
    example.replace(text.replace('"version": 1,', '"version": 1'))
    edit(sed('s/"version": 1$/"version": 1,/')).communicate(timeout=60)
    assert example.text() == text


@pytest.mark.parametrize(
    ("script", "code", "told"),
    [
        ("true", 0, "nothing was changed"),
        ("exit 3", 1, "Editing failed"),
        ('rm "$1"', 1, "the editor left no file behind"),
        (': > "$1"', 1, "not valid JSON"),  # and standard input has no answer
    ],
)
def test_an_editor_that_does_nothing_good(
    example: Any, edit: Edit, tmp_path: Path, script: str, code: int, told: str
) -> None:
    before = example.text()
    out, err = (running := edit(script)).communicate(timeout=60)
    assert running.returncode == code
    assert told in out + err
    assert "Traceback" not in err
    assert (example.text(), leftovers(example, tmp_path)) == (before, [])


def test_an_editor_that_writes_a_new_file(example: Any, edit: Edit) -> None:
    edit(f'sed \'{DESCRIPTION}\' "$1" > "$1.new"; mv "$1.new" "$1"').communicate(timeout=60)
    assert "First YOLOv8" in example.text()


def test_a_change_in_the_meantime_is_not_overwritten(example: Any, edit: Edit, tmp_path: Path) -> None:
    other = f"sed -i 's/Retrained/Trained/' {example.file}"
    out, err = (running := edit(f"{sed(DESCRIPTION)}; {other}", sed(DESCRIPTION))).communicate("e\n", timeout=60)
    assert (running.returncode, "was replaced" in out) == (0, True)
    assert "Trained with" in example.text()
    assert "First YOLOv8" in example.text()
    (kept,) = leftovers(example, tmp_path)
    assert kept in err
    assert "Retrained" in (tmp_path / "tmp" / kept).read_text()


def test_two_cannot_edit_at_once(example: Any, edit: Edit, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    first = edit(f"read line < {tmp_path}/go; {sed(DESCRIPTION)}")
    with (tmp_path / "go").open("w") as go:  # opens once the first editor reads
        out, err = (second := edit("true")).communicate(timeout=60)
        assert (second.returncode, out) == (1, "")
        assert f"somebody else is editing {example.file}" in err
        go.write("\n")
    assert "was replaced" in first.communicate(timeout=60)[0]


def test_an_interrupt_is_the_editors(example: Any, edit: Edit, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    running = edit(f"read line < {tmp_path}/go; {sed(DESCRIPTION)}")
    with (tmp_path / "go").open("w") as go:
        running.send_signal(signal.SIGINT)
        go.write("\n")
    out, _ = running.communicate(timeout=60)
    assert (running.returncode, "was replaced" in out) == (0, True)
    assert "First YOLOv8" in example.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("script", ["", sed(DESCRIPTION)], ids=["unchanged", "changed"])
def test_what_was_saved_is_kept_when_it_is_stopped(
    example: Any, edit: Edit, tmp_path: Path, script: str, number: signal.Signals
) -> None:
    before = example.text()
    os.mkfifo(tmp_path / "go")
    running = edit(f"{script or ':'}; read line < {tmp_path}/go")
    with (tmp_path / "go").open("w") as go:
        running.send_signal(number)
        assert running.wait(timeout=60) == 128 + number
        go.write("\n")
    _, err = running.communicate(timeout=60)
    kept = leftovers(example, tmp_path)
    assert example.text() == before
    assert len(kept) == bool(script)
    for name in kept:
        assert name in err
        assert "First YOLOv8" in (tmp_path / "tmp" / name).read_text()
    with FileLock(f"{example.file}.edit.lock", timeout=0):
        pass


def test_what_cannot_be_put_in_place_is_kept(example: Any, edit: Edit, tmp_path: Path) -> None:
    before = example.text()
    with FileLock(f"{example.file}.lock"):
        out, err = (running := edit(sed(DESCRIPTION), flags=["--lock-timeout", "0.1"])).communicate("q\n", timeout=60)
    assert (running.returncode, out, example.text()) == (0, "given up\n", before)
    assert f"another process has held {example.file}.lock" in err
    (kept,) = leftovers(example, tmp_path)
    assert kept in err
    assert "First YOLOv8" in (tmp_path / "tmp" / kept).read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root edits what belongs to others")
def test_roots_locks_are_for_the_owner_of_the_registry(example: Any, edit: Edit) -> None:
    os.chown(example.file, 65534, 65534)
    edit(sed(DESCRIPTION)).communicate(timeout=60)
    locks = [path for path in example.file.parent.iterdir() if path.suffix == ".lock"]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in [example.file, *locks]} == {(65534, 65534)}
    assert len(locks) == 2


def test_a_database_is_no_text(example: Any) -> None:
    command = [sys.executable, "-m", "registry_server", "--root", str(example.path), "--storage", "sqlite:x.db", "edit"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 2
    assert "migrate it" in outcome.stderr


def test_a_running_server_takes_it_up(example: Any, edit: Edit, start: Any) -> None:
    server = start()
    stub = server.stub()
    watch = stub.WatchProduction(pb.WatchProductionRequest(instance_id="test"))
    assert next(watch).activated.model.version == 1
    swap = sed('s/"production"/"was"/; s/"staging"/"production"/; s/"was"/"staging"/')
    edit(swap).communicate(timeout=60)
    assert next(message for message in watch if message.HasField("activated")).activated.model.version == 2
    watch.cancel()
