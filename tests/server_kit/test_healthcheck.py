"""The health check as a container runs it, against a real server."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

Status = health_pb2.HealthCheckResponse


@pytest.fixture
def health(tmp_path):
    """Yield the address of a server on a socket, and its health service to set."""
    servicer = HealthServicer()
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"unix:{tmp_path}/socket"
    server.add_insecure_port(address)
    server.start()
    yield address, servicer
    server.stop(None).wait()


def check(*arguments):
    command = [sys.executable, "-m", "server_kit.healthcheck", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_follows_the_status_of_the_service(health):
    address, servicer = health
    servicer.set("", Status.SERVING)
    servicer.set("a.Service", Status.NOT_SERVING)
    assert check(address).returncode == 0
    outcome = check(address, "--service", "a.Service")
    assert (outcome.returncode, outcome.stderr) == (1, f"{address}: NOT_SERVING\n")
    servicer.set("a.Service", Status.SERVING)
    assert check(address, "--service", "a.Service").returncode == 0


def test_says_what_is_wrong(health, tmp_path):
    address, _ = health
    unknown = check(address, "--service", "nobody")
    assert (unknown.returncode, unknown.stderr.split(":")[2].strip()) == (1, "NOT_FOUND")
    away = check(f"unix:{tmp_path}/nothing", "--timeout-seconds", "1")
    assert away.returncode == 1
    assert "UNAVAILABLE" in away.stderr
    assert check("nonsense").returncode == 2


def test_ignores_a_proxy_of_the_environment(health, monkeypatch):
    _, servicer = health
    servicer.set("", Status.SERVING)
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert check(f"127.0.0.1:{port}").returncode == 0
    server.stop(None).wait()
