"""What the server remembers between two starts."""

from pathlib import Path

import pytest

from inference_server.engine import ModelVersion
from inference_server.state import Announcement, StateFile


def announcement(name="shapes", version=1):
    attributes = {"videoai": {"family": "tensors", "thresholds": [0.5]}}
    return Announcement(ModelVersion(name, version, Path("models/m.onnx"), "ab" * 32, attributes), revision=7)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "state.json"


def test_what_was_remembered_comes_back(path):
    StateFile(path).remember(announcement())
    assert StateFile(path).load() == [announcement()]


def test_only_the_last_version_of_a_model_is_kept(path):
    file = StateFile(path)
    for version in (1, 2):
        file.remember(announcement(version=version))
    file.remember(announcement("other"))
    assert StateFile(path).load() == [announcement(version=2), announcement("other")]
    file.forget("shapes")
    file.forget("shapes")
    assert StateFile(path).load() == [announcement("other")]
    assert list(path.parent.iterdir()) == [path]


def test_no_file_is_nothing_to_remember(path):
    assert StateFile(path).load() == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"models": [{}]}', b'{"models": 3}', b"\xff", b'{"models": [{"revision": 1}]}']
)
def test_a_broken_file_is_passed_over(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    assert StateFile(path).load() == []
    StateFile(path).remember(announcement())
    assert StateFile(path).load() == [announcement()]


def test_a_folder_that_takes_no_file_is_no_reason_to_stop(tmp_path):
    (tmp_path / "file").touch()
    StateFile(tmp_path / "file" / "state.json").remember(announcement())
