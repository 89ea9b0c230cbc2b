"""Whether a path is a mount of its own, which can be written but not replaced."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def is_mount(path: Path) -> bool:
    """True if something is mounted on `path` itself. A bind mount of one file is seen on Linux alone."""
    try:
        table = os.fsdecode(_TABLE.read_bytes())
    except OSError:
        return path.is_mount()
    real = os.path.realpath(path)
    return any(_mount_point(line) == real for line in table.splitlines())


def _mount_point(line: str) -> str:
    """The fifth field of a line of mountinfo; blanks and backslashes in it are spelt in octal."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), line.split(" ")[4])
