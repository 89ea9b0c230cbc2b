"""What a decoder that a video has taken over could still do: hardly anything, and each layer alone sees to that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference_server.detection import Layout
from inference_server.video import LAYERS, DecoderPool, DecoderSettings, StreamRequest, Target, processes, sandbox

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone has these layers")
AVAILABLE = sandbox.probe()

# Tries things, each in a process of its own in the sandbox, and tells how each ended: 0, an errno, or minus a signal.
PROGRAM = """
import ctypes, json, mmap, os, signal, socket, sys, threading
from inference_server.video import limits, sandbox

limits.harden()
layers, port = json.loads(sys.argv[1]), json.loads(sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0))
other = socket.create_server(("127.0.0.1", 0))
libc = ctypes.CDLL(None, use_errno=True)

def check(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), "")

def connect(to):
    with socket.socket() as sock:
        sock.settimeout(10)
        sock.connect(to.getsockname())

def thread():
    done = []
    worker = threading.Thread(target=done.append, args=(1,))
    worker.start()
    worker.join()
    assert done

attempts = {
    "use memory": lambda: bytearray(50_000_000),
    "start a thread": thread,
    "read": lambda: open("/etc/hostname").read(),
    "write": lambda: open("must-not-be", "w"),
    "list": lambda: os.listdir("/"),
    "socket": lambda: socket.socket().close(),
    "unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "udp socket": lambda: socket.socket(type=socket.SOCK_DGRAM).close(),
    "connect": lambda: connect(listener),
    "connect elsewhere": lambda: connect(other),
    "listen": lambda: socket.create_server(("127.0.0.1", 0)),
    "run a program": lambda: os.execv("/bin/true", ["true"]),
    "fork": lambda: os.fork() or os._exit(0),
    "look into a process": lambda: check(libc.ptrace(16, os.getppid(), 0, 0)),
    "signal another": lambda: os.kill(os.getppid(), 0),
    "new code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "be root": lambda: os.chroot("/"),
    "new namespace": lambda: check(libc.unshare(0x00020000)),
    "abort": os.abort,
}

def outcome(attempt):
    pid = os.fork()
    if not pid:
        try:
            own = listener.getsockname()[1] if port else None
            sandbox.enter(sandbox.Profile(own), layers)
            attempt()
        except OSError as error:
            os._exit(error.errno)
        except BaseException:
            os._exit(255)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

print(json.dumps({name: outcome(attempt) for name, attempt in attempts.items()}))
"""
EPERM, EACCES, SIGSYS, SIGABRT = 1, 13, -31, -6


def attempts(folder: Path, *layers: str, network: bool = False) -> dict[str, int]:
    if missing := set(layers) - set(AVAILABLE):
        pytest.skip(f"this kernel offers no {', '.join(missing)}")
    command = [sys.executable, "-c", PROGRAM, json.dumps(layers), json.dumps(network)]
    outcome: dict[str, int] = json.loads(subprocess.check_output(command, text=True, cwd=folder))
    return outcome


def test_a_decoder_can_decode_and_nothing_else(tmp_path: Path) -> None:
    assert attempts(tmp_path, *AVAILABLE) == {
        "use memory": 0,
        "start a thread": 0,
        "read": EPERM,
        "write": EPERM,
        "list": EPERM,
        "socket": SIGSYS,
        "unix socket": SIGSYS,
        "udp socket": SIGSYS,
        "connect": SIGSYS,
        "connect elsewhere": SIGSYS,
        "listen": SIGSYS,
        "run a program": SIGSYS,
        "fork": EPERM,
        "look into a process": SIGSYS,
        "signal another": EPERM,
        "new code": EPERM,
        "be root": EPERM,
        "new namespace": EPERM,
        "abort": SIGABRT,
    }
    assert not any(tmp_path.iterdir())


def test_a_network_source_has_one_port_and_no_more(tmp_path: Path) -> None:
    outcome = attempts(tmp_path, *AVAILABLE, network=True)
    assert (outcome["socket"], outcome["connect"]) == (0, 0)
    assert outcome["connect elsewhere"] == EACCES
    assert (outcome["udp socket"], outcome["unix socket"], outcome["listen"]) == (EPERM, EPERM, SIGSYS)
    assert (outcome["read"], outcome["run a program"]) == (EPERM, SIGSYS)


def test_landlock_alone_keeps_files_and_connections_away(tmp_path: Path) -> None:
    outcome = attempts(tmp_path, "landlock")
    assert {outcome[name] for name in ("read", "write", "list", "run a program")} == {EACCES}
    if sandbox.landlock.version() >= 4:
        assert {outcome[name] for name in ("connect", "connect elsewhere", "listen")} == {EACCES}


def test_without_capabilities_the_superuser_is_none(tmp_path: Path) -> None:
    outcome = attempts(tmp_path, "capabilities")
    assert (outcome["be root"], outcome["new namespace"]) == (EPERM, EPERM)


async def test_decoders_are_in_all_layers_that_there_are(tools: Any, spool: Path, video: bytes) -> None:
    told: list[Any] = []
    async with (
        DecoderPool(DecoderSettings(spool_folder=spool), told.append) as pool,
        await pool.open(StreamRequest(), Target(Layout(32, 32), 0)) as stream,
    ):
        await stream.feed(video)
        await stream.started()
        (worker,) = tools.workers()
        status = Path(f"/proc/{worker.pid}/status").read_text()
    assert told == [list(AVAILABLE)]
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    assert ("Seccomp:\t2" in status) == ("seccomp" in AVAILABLE)


async def test_a_kernel_without_any_of_it_decodes_all_the_same(
    tools: Any, spool: Path, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import sys; from inference_server.video import nursery, sandbox; sandbox.probe = tuple;"
        "nursery.main(int(sys.argv[1]), int(sys.argv[2]))"
    )
    monkeypatch.setattr(processes, "_command", lambda *numbers: [sys.executable, "-c", program, *map(str, numbers)])
    told: list[Any] = []
    async with DecoderPool(DecoderSettings(spool_folder=spool), told.append) as pool:
        assert len((await tools.decode(pool, video)).frames) == 30
    assert told == [[]]
    assert LAYERS


def test_layers_are_those_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError

    monkeypatch.setattr(sandbox.landlock, "enter", refuse)
    monkeypatch.setattr(sandbox.seccomp, "available", lambda: False)
    assert set(sandbox.probe()) <= {"capabilities"}
