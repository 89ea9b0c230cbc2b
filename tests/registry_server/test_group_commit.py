"""Changes that wait for one that is being written are written together, and none is answered before it is synced."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from registry_server.artifacts import ArtifactFolder
from registry_server.files import Files
from registry_server.json_storage import JsonFileStorage
from registry_server.registry import open_registry
from registry_server.steps import Registration

WRITERS = 64


class Held(Files):
    """Counts the syncs, and holds each up while `go` is clear."""

    def __init__(self) -> None:
        self.arrived, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.syncs = 0

    def sync(self, descriptor: int) -> None:
        self.arrived.set()
        assert self.go.wait(60)
        self.syncs += 1
        super().sync(descriptor)


async def test_many_writers_share_a_sync(root: Any) -> None:
    files, path = Held(), root.add_model("m", 1)
    async with open_registry(JsonFileStorage(root.file, files=files), ArtifactFolder(root.path)) as registry:
        names = [f"m{number}" for number in range(WRITERS)]
        for name in names:
            await registry.register(Registration(name, 1, path, {}))
        files.syncs = 0
        files.go.clear()
        files.arrived.clear()
        changes = [asyncio.create_task(registry.activate(names[0], 1))]
        assert await asyncio.to_thread(files.arrived.wait, 60)
        changes += [asyncio.create_task(registry.activate(name, 1)) for name in names[1:]]
        while len(registry._waiting) < WRITERS - 1:
            await asyncio.sleep(0)
        assert not any(change.done() for change in changes), "an answer came before the sync"
        files.go.set()
        results = await asyncio.gather(*changes)
    assert files.syncs == 4, "the file and the folder, for the first and for all who waited"
    revisions = sorted(result.revision for result in results)
    assert revisions == list(range(revisions[0], revisions[0] + WRITERS))
    assert {entry["status"] for entry in json.loads(root.file.read_text())["models"]} == {"production"}
