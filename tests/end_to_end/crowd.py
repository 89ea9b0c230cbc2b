"""Many watchers of one registry, each with its own connection, in a process that can be stopped and continued.

As a program: `crowd.py ADDRESS COUNT [MODEL]...`. It answers each line of standard input, a revision, with the times
at which its watchers learned of that revision or of a later one, as soon as all have; 0 asks whether all are synced.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter

import grpc
from videoai.registry.v1 import registry_pb2 as pb
from videoai.registry.v1 import registry_pb2_grpc

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
RECONNECT_SECONDS = 0.1


class Crowd:
    """The process, as seen by who starts it."""

    def __init__(self, address: str, count: int, *names: str) -> None:
        """Follow `names`, or all models. Returns before the watchers are connected; see `learned`."""
        self.count = count
        command = [sys.executable, __file__, address, str(count), *names]
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def learned(self, revision: int = 0) -> list[float]:
        """When each watcher learned of a revision, or was synced, as perf_counter tells it; waits until all have."""
        assert self._popen.stdin
        assert self._popen.stdout
        self._popen.stdin.write(f"{revision}\n")
        self._popen.stdin.flush()
        times: list[float] = json.loads(self._popen.stdout.readline())
        assert len(times) == self.count
        return times

    def stop(self) -> None:
        self._popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._popen.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._popen.kill()
        self._popen.communicate()


class _Watchers:
    def __init__(self, address: str, count: int, names: Sequence[str]) -> None:
        self._address = address
        self._request = pb.WatchProductionRequest(model_names=names)
        self._revisions = [-1] * count
        self._times = [0.0] * count
        self._news = asyncio.Event()

    async def follow(self, index: int) -> None:
        async with grpc.aio.insecure_channel(self._address, options=OWN_CONNECTION) as channel:
            stub = registry_pb2_grpc.ModelRegistryServiceStub(channel)
            while True:
                # The server gives up a connection that takes nothing for some time, as that of a stopped process.
                with suppress(grpc.aio.AioRpcError):
                    await self._watch(stub, index)
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _watch(self, stub: registry_pb2_grpc.ModelRegistryServiceAsyncStub, index: int) -> None:
        async for message in stub.WatchProduction(self._request):
            now = perf_counter()
            if message.WhichOneof("event") == "heartbeat":
                continue
            if self._revisions[index] >= 0 or message.WhichOneof("event") == "synced":
                self._revisions[index], self._times[index] = message.revision, now
                self._news.set()

    async def answer(self) -> None:
        while line := await asyncio.to_thread(sys.stdin.readline):
            while min(self._revisions) < int(line):
                self._news.clear()
                await self._news.wait()
                await asyncio.sleep(0.01)  # looking at all of them after each message would be half the work
            print(json.dumps(self._times), flush=True)


async def _main(address: str, count: int, names: Sequence[str]) -> None:
    watchers = _Watchers(address, count, names)
    async with asyncio.TaskGroup() as group:
        followers = [group.create_task(watchers.follow(index)) for index in range(count)]
        await watchers.answer()
        for follower in followers:
            follower.cancel()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
