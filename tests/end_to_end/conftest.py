"""A running pair, the demo's models and a video of the demo's scene."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from demo import models as demo_models
from demo import scene
from harness import Pair, serving


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    (tmp_path / "models").mkdir()
    pair = Pair(tmp_path)
    try:
        yield pair
    finally:
        pair.close()
        for process in pair.processes:
            print(f"--- log of {process.name}\n{process.log}")  # pytest shows it where a test failed


@pytest.fixture(scope="session")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The two demo detectors, by version."""
    folder = tmp_path_factory.mktemp("onnx")
    files = {version: folder / f"v{version}.onnx" for version in (1, 2)}
    demo_models.build_v1(files[1])
    demo_models.build_v2(files[2])
    return files


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of the demo scene as H.264 in MP4, its index at the front."""
    path = tmp_path_factory.mktemp("video") / "scene.mp4"
    scene.encode(path, frames=120, fps=30, size=(640, 360))
    return path


@pytest.fixture
def serving_v1(pair: Pair, onnx_files: dict[int, Path]) -> Pair:
    """A running pair with two versions registered and version 1 answering."""
    pair.start_registry()
    pair.register(onnx_files[1], 1)
    pair.register(onnx_files[2], 2)
    pair.activate(1)
    pair.start_inference()
    pair.wait_until_running(1)
    return pair


@pytest.fixture(scope="session")
def serving_v1_shared(tmp_path_factory: pytest.TempPathFactory, onnx_files: dict[int, Path]) -> Iterator[Pair]:
    """A running pair for tests that leave it as it was."""
    with serving(tmp_path_factory.mktemp("shared"), onnx_files[1]) as pair:
        yield pair
