"""What is mounted where: a mount of its own cannot be replaced, and not every file system keeps a file."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def is_mount(path: Path) -> bool:
    """True if something is mounted on `path` itself. A bind mount of one file is seen on Linux alone."""
    try:
        table = _table()
    except OSError:
        return path.is_mount()
    real = os.path.realpath(path)
    return any(_mount_point(line) == real for line in table)


def file_system(path: Path) -> str:
    """The type of the file system that `path` is on, for instance "ext4"; empty where the system does not tell."""
    try:
        table = _table()
    except OSError:
        return ""
    real = Path(os.path.realpath(path))
    # Of two mounts on one point the later one is what is seen.
    *_, line = max(
        (len(point.parts), number, line)
        for number, line in enumerate(table)
        if real.is_relative_to(point := Path(_mount_point(line)))
    )
    return line.partition(" - ")[2].split(" ")[0]


def _table() -> list[str]:
    return os.fsdecode(_TABLE.read_bytes()).splitlines()


def _mount_point(line: str) -> str:
    """The fifth field of a line of mountinfo; blanks and backslashes in it are spelt in octal."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), line.split(" ")[4])
