"""What the README tells people to type does what it says."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from demo import scene

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text()
# Set-up, and the servers, which the test has started already.
DONE_BEFORE = re.compile(r"^(python3 -m venv|pip install|videoai-(registry|inference) .*&$)")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands():
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and not DONE_BEFORE.match(line)]


@pytest.fixture
def in_the_clone(pair, monkeypatch):
    """A folder that looks like a clone in which `make demo` has run, with both servers up."""
    (pair.root / "clients").symlink_to(REPOSITORY / "clients")
    (pair.root / "build" / "demo").mkdir(parents=True)
    scene.encode(pair.root / "build" / "demo" / "scene.mp4", frames=30, size=(640, 360))
    pair.start_registry()
    pair.start_inference()
    monkeypatch.setenv("VIDEOAI_REGISTRY", pair.registry_address)
    monkeypatch.setenv("VIDEOAI_INFERENCE", pair.inference_process.address)
    monkeypatch.setenv("PATH", f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    return pair


def here(text, pair):
    """With the addresses of the servers that run."""
    return text.replace("127.0.0.1:50051", pair.registry_address).replace(
        "127.0.0.1:50052", pair.inference_process.address
    )


def run(pair, command):
    return subprocess.run(
        here(command, pair) if isinstance(command, str) else command,
        shell=isinstance(command, str),
        cwd=pair.root,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_every_command_works_as_pasted(in_the_clone):
    assert sum(line.startswith("videoai ") for line in commands()) >= 7
    assert sum(line.startswith("grpcurl ") for line in commands()) >= 5
    for command in commands():
        result = run(in_the_clone, command)
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
        if "models activate" in command:
            in_the_clone.wait_until_running(int(command.split()[-1]))
    assert (in_the_clone.root / "annotated.mp4").stat().st_size
    assert len((in_the_clone.root / "results.jsonl").read_text().splitlines()) == 30


def test_the_python_example_works_as_pasted(in_the_clone, onnx_files):
    for version in (1, 2):
        in_the_clone.register(onnx_files[version], version)
    in_the_clone.activate(1)
    in_the_clone.wait_until_running(1)
    example, _ = blocks("python")
    result = run(in_the_clone, [sys.executable, "-c", here(example, in_the_clone)])
    assert result.returncode == 0, result.stderr
    assert "red circle" in result.stdout


def test_the_asyncio_example_follows_production(in_the_clone, onnx_files):
    for version in (1, 2):
        in_the_clone.register(onnx_files[version], version)
    _, example = blocks("python")
    with subprocess.Popen(
        [sys.executable, "-uc", here(example, in_the_clone)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            for version in (1, 2):
                in_the_clone.activate(version)
                assert process.stdout.readline() == f"shapes version {version} is in production\n"
        finally:
            process.kill()
