"""How this server starts a process of its own: this interpreter, our code, and nothing that it need not know."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# A process inherits nothing else, credentials in the environment least of all.
_INHERITED = (
    "PATH",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSAFEPATH",
    "VIRTUAL_ENV",
    "LANG",
    "TMPDIR",
)
# A math library that starts threads would make forking unsafe. A heap for each thread would take address space, which
# is bounded in a decoder.
_OWN = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}
# Modules are found where the server's are: not in the folder that it was started in (-P), whoever may write there.
_PROGRAM = (
    "import sys, importlib; root, name, *numbers = sys.argv[1:]; root in sys.path or sys.path.insert(0, root);"
    " importlib.import_module(name).main(*map(int, numbers))"
)


def command(module: str, *numbers: int) -> list[str]:
    """What runs `main(*numbers)` of one of our modules."""
    root = Path(__file__).parent.parent
    return [sys.executable or "python3", "-P", "-c", _PROGRAM, str(root), module, *map(str, numbers)]


def environment() -> dict[str, str]:
    """All that it gets of the server's environment, and what it needs besides."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ} | _OWN
