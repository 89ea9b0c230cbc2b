"""Generate the committed stubs from protos/, or check that they are what generation gives.

python clients/stubs.py            write them
python clients/stubs.py --check    exit 1 and name the files that differ
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
CLIENTS = ROOT / "clients"
SCRIPTS = Path(sysconfig.get_path("scripts"))  # of this interpreter, whether or not it is on PATH


def generate(destination: Path) -> list[Path]:
    """Write the stubs of every .proto file below `destination`; return their paths relative to it."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    arguments = ["protoc", f"-I{PROTOS}", f"-I{well_known}"]
    outputs = {"python": "", "grpc_python": "", "mypy": "quiet:", "mypy_grpc": "quiet:"}
    arguments += [f"--{kind}_out={options}{destination}" for kind, options in outputs.items()]
    arguments += [f"--plugin={SCRIPTS / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    if protoc.main([*arguments, *sources]) != 0:
        raise SystemExit("protoc failed")
    return sorted(path.relative_to(destination) for path in destination.rglob("*_pb2*.py*") if path.suffix != ".pyc")


def drift() -> list[str]:
    """Name the committed stubs that differ from what generation gives, are missing, or have no source."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = {path: (Path(folder) / path).read_bytes() for path in generate(Path(folder))}
    committed = {
        path.relative_to(CLIENTS): path.read_bytes()
        for path in CLIENTS.rglob("*_pb2*.py*")
        if path.suffix in {".py", ".pyi"}
    }
    return sorted(str(path) for path in fresh.keys() | committed.keys() if fresh.get(path) != committed.get(path))


def main() -> None:
    if sys.argv[1:] == ["--check"]:
        if differing := drift():
            raise SystemExit(f"stubs differ from protos/, run 'make stubs': {', '.join(differing)}")
    else:
        generate(CLIENTS)


if __name__ == "__main__":
    main()
