"""Requests per second against MLflow's tracking server over SQLite, each server with its defaults, on the same machine.

Left out unless MLFLOW_PYTHON names a Python that has MLflow, in an environment of its own:

    uv venv mlflow-env && uv pip install --python mlflow-env mlflow
    MLFLOW_PYTHON=mlflow-env/bin/python make bench

What is compared: the version that is in production, looked up by name (MLflow: by alias), and putting another one there
(MLflow: setting the alias). So many clients ask at a time, each for a model of its own over a connection that it keeps.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import grpc
from videoai.registry.v1 import registry_pb2 as pb
from videoai.registry.v1 import registry_pb2_grpc

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

from bench_scale import served
from bench_storage import VERSIONS
from report import Row, compare, report

CLIENTS = (1, 8)
SECONDS = 2.0
PATIENCE = 120
NAMES = [f"model-{number}" for number in range(max(CLIENTS))]
Request = Callable[[int], object]


class MlflowClient:
    """One connection to MLflow's REST interface."""

    def __init__(self, port: int, name: str) -> None:
        self._name = name
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def call(self, method: str, path: str, **fields: Any) -> Any:
        body = json.dumps(fields) if fields else None
        self._connection.request(method, f"/api/2.0/mlflow/{path}", body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return json.loads(content)

    def read(self, _: int) -> None:
        self.call("GET", f"registered-models/alias?name={self._name}&alias=production")

    def write(self, turn: int) -> None:
        self.call("POST", "registered-models/alias", name=self._name, alias="production", version=str(turn % 2 + 1))


class RegistryClient:
    """One connection to the registry."""

    def __init__(self, address: str, name: str) -> None:
        self._name = name
        channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._stub = registry_pb2_grpc.ModelRegistryServiceStub(channel)

    def read(self, _: int) -> None:
        self._stub.GetProductionModel(pb.GetProductionModelRequest(model_name=self._name))

    def write(self, turn: int) -> None:
        request = pb.ActivateModelVersionRequest(model_name=self._name, version=turn % 2 + 1)
        self._stub.ActivateModelVersion(request)


@contextmanager
def mlflow_server(python: str, folder: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_healthy(process, port, folder / "log")
        for name in NAMES:
            client = MlflowClient(port, name)
            client.call("POST", "registered-models/create", name=name)
            for _ in range(VERSIONS):
                client.call("POST", "model-versions/create", name=name, source="s3://nowhere/model")
            client.write(0)
        yield port
    finally:
        process.terminate()
        process.wait()


def wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(10 * PATIENCE):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            sleep(0.1)
        finally:
            connection.close()
    raise TimeoutError(log.read_text())


def rate(requests: list[Request]) -> float:
    """Requests per second, each list item asking one after the other in a thread of its own."""

    def work(request: Request) -> int:
        turn = 0
        while perf_counter() < end:
            request(turn)
            turn += 1
        return turn

    end = perf_counter() + SECONDS
    with ThreadPoolExecutor(len(requests)) as threads:
        return sum(threads.map(work, requests)) / SECONDS


def measure(python: str, folder: Path) -> Iterator[Row]:
    (folder / "mlflow").mkdir()
    with (
        mlflow_server(python, folder / "mlflow") as port,
        served(folder, "sqlite", len(NAMES) * VERSIONS) as sqlite,
        served(folder, "file", len(NAMES) * VERSIONS) as file,
    ):
        for count in CLIENTS:
            theirs = [MlflowClient(port, name) for name in NAMES[:count]]
            for scheme, server in (("sqlite", sqlite), ("file", file)):
                ours = [RegistryClient(server.process.address, name) for name in NAMES[:count]]
                for what, call in (("GetProductionModel", "read"), ("ActivateModelVersion", "write")):
                    measured, reference = ([getattr(client, call) for client in clients] for clients in (ours, theirs))
                    yield compare(
                        f"{what}, {scheme}, {count} at a time",
                        lambda measured=measured: rate(measured),
                        "MLflow, SQLite",
                        lambda reference=reference: rate(reference),
                        "1/s",
                    )


def main() -> None:
    python = os.environ.get("MLFLOW_PYTHON")
    if not python:
        print("left out: MLFLOW_PYTHON names no Python that has MLflow")
        return
    version = subprocess.run(
        [python, "-c", "import mlflow; print(mlflow.__version__)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory(dir=".") as place:
        report("mlflow", list(measure(python, Path(place).absolute())), {"MLflow": version})


if __name__ == "__main__":
    main()
