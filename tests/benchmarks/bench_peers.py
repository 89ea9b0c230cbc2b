"""ModelInfer beside other Python servers of the Open Inference Protocol, all driven by the same tritonclient program.

Each is left out unless a variable names a Python that has it, in an environment of its own:

    for name in kserve mlserver nvidia-pytriton "tritonclient[grpc]"; do
        python -m venv "env-$name" && "env-$name/bin/pip" install "$name" onnxruntime
    done
    TRITONCLIENT_PYTHON=… KSERVE_PYTHON=… MLSERVER_PYTHON=… PYTRITON_PYTHON=… make bench

Every server runs the same ONNX file through ONNX Runtime on the CPU: it takes a picture of 640 x 640 x 3 bytes and does
next to nothing with it, so what is compared is serving. Four client threads ask at once, with the bytes in the request
or, where the server takes that, in shared memory. Servers take turns, round by round.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

from bench_infer import MODEL, TENSORS, build
from harness import Pair
from report import ROUNDS, Row, in_pairs, report

PEERS = Path(__file__).parent / "peers"
PATIENCE = 120
TOKEN = "bench"  # noqa: S105 - it guards nothing


@dataclass(frozen=True)
class Served:
    """A server that answers, and how to ask it."""

    address: str
    client: str

    def rate(self, *arguments: str) -> float:
        """Requests per second of four client threads."""
        command = [self.client, str(PEERS / "drive.py"), self.address, MODEL, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return float(json.loads(done.stdout.splitlines()[-1])["requests_per_second"])


@contextmanager
def ours(client: str, root: Path, model: Path) -> Iterator[Served]:
    (root / "models").mkdir(parents=True)
    pair = Pair(root)
    try:
        pair.start_registry()
        pair.register(model, 1, name=MODEL, **TENSORS)
        pair.activate(1, name=MODEL)
        server = pair.start_inference("--shared-memory", "videoai-")
        pair.wait_until_running(1, MODEL)
        yield Served(server.address, client)
    finally:
        pair.close()


@contextmanager
def peer(client: str, command: Callable[[int, int], list[str]], folder: Path) -> Iterator[Served]:
    """A server started by `command`, which is given its ports for gRPC and HTTP."""
    ports = free_ports(2)
    log = folder / "log"
    with log.open("wb") as said:
        process = subprocess.Popen(command(*ports), stdout=said, stderr=said, start_new_session=True, cwd=folder)
    served = Served(f"127.0.0.1:{ports[0]}", client)
    try:
        wait_until_ready(process, served, log)
        yield served
    finally:
        process.terminate()
        process.wait()


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def wait_until_ready(process: subprocess.Popen[bytes], served: Served, log: Path) -> None:
    client = f"tritonclient.grpc.InferenceServerClient({served.address!r})"
    question = f"import tritonclient.grpc; assert {client}.is_model_ready({MODEL!r})"
    for _ in range(PATIENCE):
        if subprocess.run([served.client, "-c", question], capture_output=True, check=False).returncode == 0:
            return
        assert process.poll() is None, log.read_text()
        sleep(1)
    raise TimeoutError(log.read_text())


def measure(client: str, folder: Path) -> Iterator[Row]:
    model = folder / "means.onnx"
    build(model)
    with ExitStack() as stack:
        server = stack.enter_context(ours(client, folder / "ours", model))
        peers = {
            name: stack.enter_context(peer(client, command, folder))
            for name, command in commands(model, folder).items()
        }
        figures: dict[str, list[float]] = {}
        for turn in range(ROUNDS + 1):
            for name, served in (("ours", server), *peers.items()):
                figures.setdefault(name, []).append(served.rate())
            figures.setdefault("ours, shared memory", []).append(server.rate("--shared-memory"))
            if "Triton" in peers:
                shared = peers["Triton"].rate("--shared-memory", "--token", TOKEN)
                figures.setdefault("Triton, shared memory", []).append(shared)
            print(f"round {turn}: {json.dumps({name: round(rates[-1], 1) for name, rates in figures.items()})}")
        yield from rows(figures)


def rows(figures: dict[str, list[float]]) -> Iterator[Row]:
    """The first round warms up."""
    for theirs, reference in figures.items():
        for mine in ("ours", "ours, shared memory"):
            if not theirs.startswith("ours"):
                pairs = list(zip(figures[mine], reference, strict=True))[1:]
                yield in_pairs(f"ModelInfer, 4 clients, {mine}", theirs, "1/s", pairs)


def commands(model: Path, folder: Path) -> dict[str, Callable[[int, int], list[str]]]:
    """How to start each peer that there is."""

    def kserve(grpc: int, http: int) -> list[str]:
        return [os.environ["KSERVE_PYTHON"], str(PEERS / "kserve_server.py"), str(model), str(grpc), str(http)]

    def triton(grpc: int, http: int) -> list[str]:
        command = [os.environ["PYTRITON_PYTHON"], str(PEERS / "triton_server.py"), str(model), str(grpc), str(http)]
        return [*command, TOKEN]

    def mlserver(grpc: int, http: int) -> list[str]:
        settings = {
            "grpc_port": grpc,
            "http_port": http,
            "metrics_port": free_ports(1)[0],
            "grpc_max_message_length": 2**26,
            # Its worker processes would have every picture pickled to them.
            "parallel_workers": 0,
        }
        home = folder / "mlserver"
        home.mkdir()
        (home / "settings.json").write_text(json.dumps(settings))
        described = {"name": MODEL, "implementation": "mlserver_runtime.OnnxModel", "parameters": {"uri": str(model)}}
        (home / "model-settings.json").write_text(json.dumps(described))
        program = Path(os.environ["MLSERVER_PYTHON"]).with_name("mlserver")
        return ["env", f"PYTHONPATH={PEERS}", str(program), "start", str(home)]

    known = {"KSERVE_PYTHON": ("KServe", kserve), "MLSERVER_PYTHON": ("MLServer", mlserver)}
    known["PYTRITON_PYTHON"] = ("Triton", triton)
    for variable, (name, _) in known.items():
        if variable not in os.environ:
            print(f"{name} is left out: {variable} names no Python that has it")
    return {name: command for variable, (name, command) in known.items() if variable in os.environ}


def main() -> None:
    client = os.environ.get("TRITONCLIENT_PYTHON")
    if not client:
        print("left out: TRITONCLIENT_PYTHON names no Python that has tritonclient")
        return
    with tempfile.TemporaryDirectory() as folder:
        report("peers", list(measure(client, Path(folder))))


if __name__ == "__main__":
    main()
