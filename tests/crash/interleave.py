"""Let several servers over one folder, and a person with an editor, change the same models at once; check the history.

    python tests/crash/interleave.py --rounds 20

Every call is answered as if all calls for its model had happened one after the other, across the servers, and edits
that take the lock count as calls. Reads are part of that history where there is one server and nobody edits: another
server's changes, and edits, reach a server's reads a moment later. No reader ever finds two versions in production.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

import click
import grpc
from crash import FORKS, Server, add_model
from linear import PRODUCTION, STAGING, Event, State, in_production, linearizable
from videoai.registry.v1 import registry_pb2 as pb

VERSIONS = 4
SECONDS = 30
STATUSES = {
    pb.MODEL_STATUS_STAGING: "staging",
    pb.MODEL_STATUS_PRODUCTION: "production",
    pb.MODEL_STATUS_ARCHIVED: "archived",
}


class Round:
    """One folder from nothing, and the history of each model in it."""

    def __init__(self, root: Path, servers: list[Server], rng: random.Random, *, strict_reads: bool) -> None:
        self._file = root / "models" / "registry.json"
        self._servers, self._rng, self._strict_reads = servers, rng, strict_reads
        self._paths = {name: add_model(root, name) for name in ("a", "b")}
        self.histories: dict[str, list[Event]] = {name: [] for name in self._paths}

    async def caller(self, server: Server, calls: int) -> None:
        """Random calls, one after the other."""
        for _ in range(calls):
            name = self._rng.choice(sorted(self._paths))
            kind = self._rng.choice(("register", "register", "activate", "activate", "activate", "archive", "read"))
            await getattr(self, f"_{kind}")(server.stub, name, self._rng.randint(1, VERSIONS))

    async def person(self, edits: int) -> None:
        """Random edits under the lock."""
        for _ in range(edits):
            await asyncio.sleep(self._rng.uniform(0, 0.05))
            await asyncio.to_thread(self._edit, self._rng.choice(sorted(self._paths)), self._rng.random())

    async def _register(self, stub: Any, name: str, version: int) -> None:
        request = pb.RegisterModelRequest(model_name=name, version=version, path=self._paths[name])
        await self._call(stub.RegisterModel, request, name, "register", version)

    async def _activate(self, stub: Any, name: str, version: int) -> None:
        expected = self._rng.choice((None, None, self._rng.randint(0, VERSIONS)))
        request = pb.ActivateModelVersionRequest(model_name=name, version=version, expected_production_version=expected)
        await self._call(stub.ActivateModelVersion, request, name, "activate", version, expected)

    async def _archive(self, stub: Any, name: str, version: int) -> None:
        if self._rng.random() < 0.2:  # there is no way back from it
            request = pb.ArchiveModelVersionRequest(model_name=name, version=version)
            await self._call(stub.ArchiveModelVersion, request, name, "archive", version)

    async def _read(self, stub: Any, name: str, _: int) -> None:
        start = monotonic()
        answer = await stub.ListModels(pb.ListModelsRequest(model_name=name), timeout=SECONDS)
        found = {model.version: STATUSES[model.status] for model in answer.models}
        in_production(found)
        if self._strict_reads:
            self.histories[name].append(Event(start, monotonic(), "read", found=frozenset(found.items())))

    async def _call(
        self, call: Any, request: Any, name: str, kind: str, version: int, expected: int | None = None
    ) -> None:
        start, outcome, demoted = monotonic(), "OK", 0
        try:
            answer = await call(request, timeout=SECONDS)
            demoted = answer.demoted.version if kind == "activate" else 0
        except grpc.aio.AioRpcError as error:
            outcome = error.code().name
        self.histories[name].append(Event(start, monotonic(), kind, version, expected, outcome, demoted))

    def _edit(self, name: str, chance: float) -> None:
        start = monotonic()
        with self._file.with_name("registry.json.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._file.exists():
                return
            document = json.loads(self._file.read_bytes())
            entries = [entry for entry in document["models"] if entry["model_name"] == name]
            found: State = frozenset((entry["version"], entry["status"]) for entry in entries)
            usable = [0, *(version for version, status in sorted(found) if status != "archived")]
            chosen = usable[int(chance * len(usable))]
            for entry in entries:
                if entry["version"] == chosen:
                    entry["status"] = PRODUCTION
                elif entry["status"] == PRODUCTION:
                    entry["status"] = STAGING
            edited = self._file.with_name("registry.json.edited")
            edited.write_text(json.dumps(document))
            edited.replace(self._file)
        self.histories[name].append(Event(start, monotonic(), "edit", chosen, found=found))


async def play(rng: random.Random, *, servers: int, callers: int, calls: int, edits: int) -> dict[str, list[Event]]:
    """One round; returns the history of each model."""
    with tempfile.TemporaryDirectory(prefix="videoai-interleave-") as folder:
        root = Path(folder)
        running = [await Server.start(root, []) for _ in range(servers)]
        try:
            this = Round(root, running, rng, strict_reads=servers == 1 and not edits)
            work = [this.caller(server, calls) for server in running for _ in range(callers)]
            await asyncio.gather(*work, this.person(edits))
        finally:
            for server in running:
                await server.kill()
                await server.channel.close()
        return this.histories


@click.command()
@click.option("--rounds", default=20, show_default=True)
@click.option("--seconds", default=float("inf"), help="Stop after this time even so.")
@click.option("--servers", default=2, show_default=True, help="Server processes over one folder.")
@click.option("--callers", default=3, show_default=True, help="Callers of each server.")
@click.option("--calls", default=15, show_default=True, help="Calls of each caller in a round.")
@click.option("--edits", default=10, show_default=True, help="Edits in a round.")
@click.option("--seed", type=int, default=None, help="Repeats the choices, though not the moments.")
def main(*, rounds: int, seconds: float, seed: int | None, **shape: int) -> None:
    """Play rounds of random interleavings; exit with 1 at the first history that cannot be explained."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    rng = random.Random(seed)  # noqa: S311 - choices, not secrets
    FORKS.set_forkserver_preload(["__main__", "registry_server.__main__"])
    began, played, outcomes = monotonic(), 0, Counter[str]()
    while played < rounds and monotonic() - began < seconds:
        for name, events in asyncio.run(play(rng, **shape)).items():
            outcomes.update(f"{event.call} {event.outcome}" for event in events)
            if not linearizable(events):
                click.echo(f"seed {seed}, round {played}, model {name}: no order explains", err=True)
                for event in sorted(events, key=lambda event: event.start):
                    click.echo(str(event), err=True)
                sys.exit(1)
        played += 1
    click.echo(json.dumps({"rounds": played, "seed": seed, **shape, "events": dict(outcomes)}, indent=2))


if __name__ == "__main__":
    main()
