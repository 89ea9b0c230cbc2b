"""The process that decoders are forked from: it has loaded what they need and nothing else.

`inference_server.video.processes` starts it, with a socket to the server and the server's process number.

    it says                              when
    {"type": "ready", "layers"}          once; these layers of the sandbox work here
    {"type": "forked", "id"}             the server sent {"type": "fork", "id"} and the two sockets of the decoder
    {"type": "refused", "id", "reason"}  that failed
    {"type": "exited", "id", "status"}   a decoder ended; negative: the signal. {"type": "kill", "id"} ends it
    {"type": "pong"}                     the server sent {"type": "ping"}

When the server goes, so do the nursery and all of its children.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import select
import signal
import socket
from collections.abc import Collection
from contextlib import suppress
from types import ModuleType
from typing import Any

import av

from inference_server import kernel
from inference_server.video import limits, sandbox, wire
from inference_server.video.worker import run_worker


class Nursery:
    """Forks, kills and reaps."""

    def __init__(self, server: socket.socket, layers: Collection[str]) -> None:
        self._server = server
        self._layers = layers
        self._unpacker = wire.Unpacker()
        self._fds: list[int] = []
        self._children: dict[int, int] = {}  # worker id by pid
        self._wake_read, self._wake_write = socket.socketpair()

    def run(self) -> None:
        """Serve until the server is gone."""
        self._wake_write.settimeout(0)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._server, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        with suppress(OSError, wire.ProtocolError):
            self._send({"type": "ready", "layers": [*self._layers]})
            while self._step({fd for fd, _ in poll.poll()}):
                pass
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:  # whoever inherits them may not reap
            os.waitpid(pid, 0)

    def _step(self, ready: set[int]) -> bool:
        if self._wake_read.fileno() in ready:
            self._wake_read.recv(4096)
            self._reap()
        if self._server.fileno() not in ready:
            return True
        data, fds, _, _ = socket.recv_fds(self._server, wire.MAX_MESSAGE_BYTES, 64)
        self._fds += fds
        for message in self._unpacker.feed(data):
            self._handle(message)
        return bool(data)

    def _handle(self, message: dict[str, Any]) -> None:
        if message["type"] == "fork":
            sockets = [self._fds.pop(0), self._fds.pop(0)]
            self._fork(message["id"], *sockets)
            for fd in sockets:
                os.close(fd)
        elif message["type"] == "kill":
            # Only pids that have not been reaped are in the table, so none of them can be another process by now.
            for pid, worker in self._children.items():
                if worker == message["id"]:
                    os.kill(pid, signal.SIGKILL)
        elif message["type"] == "ping":
            self._send({"type": "pong"})

    def _fork(self, worker: int, control: int, data: int) -> None:
        # First the word, then the fork: whoever has not been told can be given the same sockets elsewhere.
        self._send({"type": "forked", "id": worker})
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._send({"type": "refused", "id": worker, "reason": str(error)})
            return
        if pid:
            self._children[pid] = worker
            return
        try:
            kernel.die_with(parent)
            self._forget()
            run_worker(socket.socket(fileno=control), socket.socket(fileno=data), self._layers)
        finally:  # whatever happens, a child never returns into the nursery's loop
            os._exit(1)

    def _forget(self) -> None:
        """Drop, in a child, what belongs to the nursery."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for owned in (self._server, self._wake_read, self._wake_write):
            owned.close()

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            worker = self._children.pop(pid)
            self._send({"type": "exited", "id": worker, "status": os.waitstatus_to_exitcode(status)})

    def _send(self, message: dict[str, Any]) -> None:
        self._server.sendall(wire.pack(message))


def _load(package: ModuleType) -> None:
    """Import all parts of `package` that decode: decoders open no files, so what it left for later would be missing."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith(("__main__", "datasets")):
            importlib.import_module(module.name)


def main(fd: int, server: int) -> None:
    kernel.die_with(server)  # a stopped process does not see that a socket was closed
    limits.harden()  # what is forked inherits it
    _load(av)
    layers = sandbox.probe()
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page it visits
    Nursery(socket.socket(fileno=fd), layers).run()
