"""How many processors there are to work with, and who goes first."""

from __future__ import annotations

import os
from pathlib import Path

# Steps of niceness by which a version that is being prepared gets less of a core than the frames answered meanwhile.
STEPS_DOWN = 5


def usable_cpus() -> int:
    """How many CPUs this process may use: its affinity, and its container's quota where there is one; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, _quota(Path("/sys/fs/cgroup/cpu.max")) or affinity))


def _quota(cpu_max: Path) -> int | None:
    try:
        quota, period = cpu_max.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else -(-int(quota) // int(period))
