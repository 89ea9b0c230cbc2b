"""What a running inference server holds: processes, descriptors, shared memory, files, bytes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil

PATIENCE = 30.0  # seconds
MEMFD = "/memfd:"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written to
OTHERS = ("videoai-fuzz-", "videoai-test-")
"""What runs and tests beside this one name their shared memory."""
MOST_WAITING = 4


@dataclass(frozen=True, slots=True)
class Holdings:
    """How much of each there is; `mapped` counts shared memory mapped by the server."""

    processes: int
    descriptors: int
    child_descriptors: int
    shared_memory_files: int
    mapped: int
    spooled_files: int
    active_streams: int


def take(pid: int, spool: Path, active_streams: int) -> Holdings:
    server = psutil.Process(pid)
    children = server.children(recursive=True)
    return Holdings(
        processes=len(children),
        descriptors=server.num_fds(),
        child_descriptors=sum(child.num_fds() for child in children),
        shared_memory_files=sum(not file.name.startswith(OTHERS) for file in SHARED_MEMORY.iterdir()),
        mapped=Path(f"/proc/{pid}/maps").read_text().count(MEMFD),
        spooled_files=len(list(spool.iterdir())),
        active_streams=active_streams,
    )


def settled(look: Callable[[], Holdings], before: Holdings | None = None) -> Holdings:
    """What is held once it is the same twice in a row, and no more than `before` if that is given; or in the end."""
    deadline, last = time.monotonic() + PATIENCE, None
    while time.monotonic() < deadline:
        with suppress(psutil.NoSuchProcess):  # a decoder that has just ended
            now = look()
            if now == last and (before is None or not leaks(before, now)):
                return now
            last = now
        time.sleep(0.3)
    return last or look()


def open_descriptors(pid: int) -> list[str]:
    """What each descriptor of a process is, but for numbers that differ each time."""
    names = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed since
            names.append(re.sub(r"\[\d+\]", "", str(link.readlink())))
    return sorted(names)


def leaks(before: Holdings, after: Holdings) -> dict[str, str]:
    """What there is more of than before; a few mappings, however many the cases, may wait for the garbage collector."""
    old, new = asdict(before), asdict(after)
    waiting = min(max(0, after.mapped - before.mapped), MOST_WAITING)
    allowed = {"mapped": waiting, "descriptors": waiting}  # Python keeps a descriptor with each mapping
    return {
        name: f"{old[name]} before, {new[name]} after" for name in new if new[name] > old[name] + allowed.get(name, 0)
    }


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that the server holds over time, one sample after each so many cases."""

    samples: list[int]

    @property
    def early(self) -> int:
        """Once everything has been used: the median of the second tenth."""
        tenth = max(1, len(self.samples) // 10)
        return int(median(self.samples[tenth : 2 * tenth] or self.samples[:1]))

    @property
    def late(self) -> int:
        """The median of the last tenth."""
        return int(median(self.samples[-max(1, len(self.samples) // 10) :]))

    @property
    def quarters(self) -> list[int]:
        """After each quarter of the run: the median of the samples of its last tenth."""
        ends = [len(self.samples) * quarter // 4 for quarter in range(1, 5)]
        few = max(1, len(self.samples) // 40)
        return [int(median(self.samples[max(0, end - few) : end] or self.samples[:1])) for end in ends]
