"""The one place where sessions of ONNX Runtime are made."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from io import BufferedRandom
from pathlib import Path
from typing import TypeAlias, TypeVar

from inference_server.cpus import STEPS_DOWN, usable_cpus
from inference_server.engine.runtime import onnxruntime, state

T = TypeVar("T")
Session: TypeAlias = onnxruntime.InferenceSession
# The bytes of one thing, one piece after the other.
Pieces: TypeAlias = Sequence[bytes | memoryview]

# ONNX Runtime's own exceptions share no base class.
ORT_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
    MemoryError,
)

WARNING, FATAL = 2, 4

# Threads that spin between two runs take the cores that decoding needs. Those that do not are late for work that is cut
# in as many parts as there are threads; cut into smaller ones, whoever is there does more of them.
CONFIGURATION: Mapping[str, str] = {
    "session.intra_op.allow_spinning": "0",
    "session.inter_op.allow_spinning": "0",
    "session.dynamic_block_base": "4",
    # Only of a file in its own format: mapped, weights are copied once in place of twice.
    "session.use_memory_mapped_ort_model": "1",
}


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """How a session is to be made, apart from where it runs.

    `threads` is how many work on one run on the CPU (all of the machine's if None). `save_to` is where the optimised
    graph is written, in ONNX Runtime's own format; `optimised` says that the graph is such a one already.
    `provider_options` are for the device's own provider, beside those of the device.
    """

    threads: int | None = None
    save_to: Path | None = None
    optimised: bool = False
    provider_options: Mapping[str, str] = field(default_factory=dict)


def create_session(
    model: Pieces, providers: Sequence[tuple[str, dict[str, str]]], kind: str, plan: SessionPlan
) -> Session:
    """A session for a serialised model on a device of this `kind`, "cpu", "cuda" or "tensorrt".

    Raises one of ORT_ERRORS; the caller checks which provider it came up on.
    """
    # What goes wrong is raised, too; on standard error it would only be there twice.
    severity = WARNING if logging.getLogger("onnxruntime").isEnabledFor(logging.DEBUG) else FATAL
    onnxruntime.set_default_logger_severity(severity)
    options = _options(severity, plan, on_cpu=kind == "cpu")
    # TensorRT's engines are found again by the model's path, which would be another one each time.
    with nullcontext() if kind == "tensorrt" else _file_in_memory(model) as path:
        session = Session(path or b"".join(model), options, providers=list(providers), enable_fallback=0)
    # Kept for a fallback that is off, these bytes would double the memory of every model.
    session._model_bytes = None  # noqa: SLF001
    return session


@contextmanager
def _file_in_memory(pieces: Pieces) -> Iterator[str | None]:
    """The path of a file that holds `pieces` and is in no folder; None where there are no such files.

    While ONNX Runtime takes bytes in it holds the interpreter's lock, about a millisecond for each megabyte in which
    nothing else is done; a file it reads without.
    """
    file = new_file(pieces)
    if file is None:
        yield None
        return
    with file:
        yield str(path_of(file))


def new_file(pieces: Pieces = ()) -> BufferedRandom | None:
    """A file in memory that holds `pieces`; None where the system has none, or does not allow it."""
    try:
        file = os.fdopen(os.memfd_create("model"), "w+b")
    except (AttributeError, OSError):
        return None
    try:
        file.writelines(pieces)
        file.flush()
        path_of(file).stat()
    except OSError:
        with suppress(OSError):
            file.close()
        return None
    return file


def path_of(file: BufferedRandom) -> Path:
    """By which it can be opened while it is open here."""
    return Path(f"/proc/self/fd/{file.fileno()}")


def _options(severity: int, plan: SessionPlan, *, on_cpu: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = severity
    options.intra_op_num_threads = plan.threads or (usable_cpus() if on_cpu else 1)
    options.inter_op_num_threads = 1
    for key, value in CONFIGURATION.items():
        options.add_session_config_entry(key, value)
    if plan.optimised:
        options.add_session_config_entry("session.load_model_format", "ORT")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if plan.save_to is not None:
        options.optimized_model_filepath = str(plan.save_to)
        options.add_session_config_entry("session.save_model_format", "ORT")
    return options


def at_low_priority(work: Callable[[], T]) -> T:
    """Do `work` in a thread of its own that yields the cores to all others; what it raises is raised here.

    A thread cannot raise its priority again, and neither can those that it starts, so none that is to answer frames
    may come from it. On other systems than Linux priorities are those of processes, and stay.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="rehearsal", initializer=_yield_cores) as thread:
        return thread.submit(work).result()


def _yield_cores() -> None:
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + STEPS_DOWN)


def explain(error: BaseException) -> str:
    """What an exception of ONNX Runtime says, in one line, without its codes, its sources and our names of files."""
    # A name that is no UTF-8 spoils the message that quotes it, and Python then complains of that in its place.
    said = error.object.decode(errors="replace") if isinstance(error, UnicodeDecodeError) else str(error)
    text = " ".join(said.split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
    text = re.sub(r"^Load model from \S+ failed: ?", "", text)
    text = re.sub(r"/proc/self/fd/\d+", "the model", text)
    # The function in its sources, with the types of all parameters, which some of its checks put first.
    text = re.sub(r"^\S+:\d+ .*?\) (?:const )?(?=[A-Z])", "", text)
    return text[:500] or type(error).__name__
