"""The REST door of a registry that is a process of its own: addresses, restart, draining, the extra."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from videoai.registry.v1 import registry_pb2 as pb

from registry_server.rest.listener import _listening

MODELS = "/api/v1/registry/models"


def complain(*command: str) -> str:
    """What a server that does not start says; it is one line."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def register(http: httpx.Client, address: str, path: str) -> httpx.Response:
    return http.post(f"http://{address}{MODELS}", json={"model_name": "m", "path": path})


def test_what_was_acknowledged_survives_sigkill(root: Any, start: Any, http: httpx.Client) -> None:
    server = start("--rest", "127.0.0.1:0")
    assert register(http, server.rest, root.add_model("m", 1)).status_code == 201
    activated = http.put(f"http://{server.rest}{MODELS}/m/1/activate").json()
    server.end(signal.SIGKILL)
    server = start("--rest", "127.0.0.1:0")
    assert http.get(f"http://{server.rest}{MODELS}").json() == {"models": [activated]}
    model = server.stub().GetProductionModel(pb.GetProductionModelRequest(model_name="m")).model
    assert (model.version, model.sha256) == (1, activated["sha256"])


def test_an_ipv6_address(start: Any, http: httpx.Client) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    server = start("--rest", "[::1]:0")
    assert re.fullmatch(r"\[::1\]:[1-9]\d*", server.rest)
    assert http.get(f"http://{server.rest}{MODELS}").json() == {"models": []}


def test_a_unix_socket(root: Any, start: Any, tmp_path: Path) -> None:
    path = tmp_path / "rest.sock"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://registry") as http:
        server = start("--rest", f"unix:{path}")
        assert server.rest == f"unix:{path}"
        assert http.get(MODELS).json() == {"models": []}
        in_use = complain(
            "-m", "registry_server", "--root", str(root.path), "--listen", "127.0.0.1:0", "--rest", server.rest
        )
        assert "--rest" in in_use
        assert "in use" in in_use
        assert http.get(MODELS).json() == {"models": []}
    server.end(signal.SIGKILL)
    assert path.is_socket()
    server = start("--rest", f"unix:{path}")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://registry") as http:
        assert http.get(MODELS).json() == {"models": []}
    assert server.end(signal.SIGTERM) == 0
    assert not path.exists()


def test_a_file_in_place_of_the_socket_stays(root: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("a shopping list")
    complaint = complain("-m", "registry_server", "--root", str(root.path), "--rest", f"unix:{path}")
    assert f"--rest unix:{path}" in complaint
    assert path.read_text() == "a shopping list"


def test_a_port_in_use(root: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        complaint = complain("-m", "registry_server", "--root", str(root.path), "--rest", address)
    assert f"--rest {address}: Address already in use" in complaint


def test_a_grpc_port_in_use_ends_the_door_too(root: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = ["--root", str(root.path), "--listen", address, "--rest", "127.0.0.1:0"]
        assert f"--listen {address}" in complain("-m", "registry_server", *flags)


def test_answers_are_not_held_back() -> None:
    with _listening("127.0.0.1:0") as (listener, address), connect(address), listener.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_extra_is_asked_for_where_it_is_missing(root: Any) -> None:
    code = "import sys; sys.modules['fastapi'] = None; from registry_server.__main__ import main; main()"
    assert "pip install 'videoai[rest]'" in complain("-c", code, "--root", str(root.path), "--rest", "127.0.0.1:0")


def test_requests_are_logged_and_counted(start: Any, http: httpx.Client, tmp_path: Path) -> None:
    server = start("--rest", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--log-format", "json")
    http.get(f"http://{server.rest}{MODELS}?model_name=M")
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    [started] = [line for line in lines if line["event"] == "started"]
    assert started["rest"] == server.rest
    [access] = [line["event"] for line in lines if line["logger"] == "uvicorn.access"]
    assert access.endswith('"GET /api/v1/registry/models?model_name=M HTTP/1.1" 422')
    with urllib.request.urlopen(f"http://{started['metrics']}/metrics") as response:
        assert f'videoai_calls_total{{code="422",method="GET {MODELS}"}} 1.0' in response.read().decode()


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def begin(server: Any, content: bytes) -> socket.socket:
    """Send the first half of a registration."""
    connection = connect(server.rest)
    head = f"POST {MODELS} HTTP/1.1\r\nHost: registry\r\nContent-Type: application/json\r\n"
    # The answer to the expectation says that the request has been taken up.
    connection.sendall(f"{head}Expect: 100-continue\r\nContent-Length: {len(content)}\r\n\r\n".encode())
    assert b"100" in connection.recv(1000)
    connection.sendall(content[: len(content) // 2])
    return connection


def wait_until_draining(server: Any) -> None:
    """Nobody is let in any more."""
    with suppress(ConnectionError):
        while True:
            connect(server.rest).close()


def test_sigterm_lets_a_request_finish(root: Any, start: Any, http: httpx.Client) -> None:
    server = start("--rest", "127.0.0.1:0", "--grace-seconds", "60")
    http.get(f"http://{server.rest}{MODELS}")  # its connection stays open, and must not hold up the end
    content = json.dumps({"model_name": "m", "path": root.add_model("m", 1)}).encode()
    with begin(server, content) as connection, connect(server.rest) as idle:
        server.process.send_signal(signal.SIGTERM)
        wait_until_draining(server)
        assert idle.recv(1) == b""
        connection.sendall(content[len(content) // 2 :])
        assert b" 201 " in connection.recv(1000)
    assert server.process.wait(60) == 0
    assert len(root.document()["models"]) == 1


def test_sigterm_does_not_wait_for_ever(start: Any, tmp_path: Path) -> None:
    server = start("--rest", "127.0.0.1:0", "--grace-seconds", "0")
    with begin(server, b"{}" * 100) as connection:
        server.process.send_signal(signal.SIGTERM)
        answer = b"".join(iter(lambda: connection.recv(1000), b""))
    assert b" 503 " in answer
    assert b"the server is stopping" in answer
    assert server.process.wait(60) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_without_the_flag_nothing_of_it_is_loaded() -> None:
    code = "import sys, registry_server.__main__; print({'fastapi', 'pydantic', 'uvicorn'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
