"""What is committed works on any machine: pins are whole, and nothing names a folder of whoever wrote it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CONSTRAINTS = sorted([*(ROOT / "constraints").glob("*.txt"), *Path(__file__).parent.glob("protobuf/*.txt")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

PIN = re.compile(r"([a-z0-9-]+)==([^ ;]+)( ; [^\\]+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
HOME = re.compile(r"(?<![\w.])/(root|home/\w+|Users/\w+)/")

# Which extras each file pins, besides the base.
PINNED = {"client": [], "registry": ["registry", "rest"], "inference": ["inference"], "dev": ["dev"]}


def requirements(extras: list[str]) -> Iterator[Requirement]:
    """Yield what the base and `extras` ask for, extras that name extras followed."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    for line in lines:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            yield from requirements(sorted(requirement.extras))
        else:
            yield requirement


def pins(path: Path) -> dict[str, set[str]]:
    """Return the versions that a constraints file names for each package; there may be one for each Python."""
    found: dict[str, set[str]] = {}
    for name, version, _ in PIN.findall(path.read_text()):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.stem)
def test_constraints_are_versions_and_hashes_alone(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert [line for line in lines if not PIN.fullmatch(line) and not HASH.fullmatch(line)] == []
    assert pins(path)


@pytest.mark.parametrize("name", PINNED)
def test_constraints_pin_what_the_project_asks_for(name: str) -> None:
    pinned = pins(ROOT / "constraints" / f"{name}.txt")
    for requirement in requirements(PINNED[name]):
        versions = pinned[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version) for version in versions), requirement


@pytest.mark.parametrize("name", ["client", "registry", "inference", "build"])
def test_images_get_the_versions_that_were_tested(name: str) -> None:
    tested = pins(ROOT / "constraints" / "dev.txt")
    for package, versions in pins(ROOT / "constraints" / f"{name}.txt").items():
        assert versions <= tested[package], package


def test_homes_are_recognised() -> None:
    assert HOME.search("see /home/ann/models")
    assert HOME.search('"/root/models"')
    assert not HOME.search("docs/root/ and ./home/page/")


def test_no_path_of_a_machine_is_committed() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.suffix in {".png", ".onnx", ".mp4"} or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if path != Path(__file__) and HOME.search(line):
                found.append(f"{name}:{number}: {line.strip()}")
    assert found == []
