"""Every storage keeps the same promises; the JSON file keeps some of its own, and so does the database elsewhere."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry_server.catalog import Catalog
from registry_server.errors import RegistryFileInvalid, StorageUnavailable
from registry_server.files import Files
from registry_server.json_storage import JsonFileStorage
from registry_server.sqlite_storage import SqliteStorage
from registry_server.storage import MemoryStorage, Storage

KINDS: dict[str, type[JsonFileStorage | SqliteStorage]] = {"json": JsonFileStorage, "sqlite": SqliteStorage}
Open = Callable[..., Storage]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "registry.json"


@pytest.fixture(params=["json", "sqlite", "memory"])
def storage(request: pytest.FixtureRequest, file: Path) -> Iterator[Storage]:
    storage: Storage = MemoryStorage() if request.param == "memory" else KINDS[request.param](file)
    yield storage
    storage.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Of a storage that outlives its process."""
    return str(request.param)


@pytest.fixture
def open_storage(kind: str, file: Path) -> Iterator[Open]:
    """Opens one more storage over the same file."""
    storages: list[Storage] = []

    def open_one(**options: Any) -> Storage:
        storages.append(KINDS[kind](file, **options))
        return storages[-1]

    yield open_one
    for storage in storages:
        storage.close()


def adding(key: str, value: object = None) -> Callable[[Catalog], Catalog]:
    return lambda catalog: catalog.with_rest(key, value)


def counting(catalog: Catalog) -> Catalog:
    return catalog.with_rest("count", catalog.rest.get("count", 0) + 1)


# What every storage promises.


def test_a_new_storage_is_empty(storage: Storage) -> None:
    assert storage.load().entries == ()


def test_what_was_written_is_loaded(storage: Storage) -> None:
    written = storage.transact(adding("a", 1))
    assert written.rest["a"] == 1
    assert storage.load() is written


def test_a_change_sees_the_one_before(storage: Storage) -> None:
    for _ in range(3):
        storage.transact(counting)
    assert storage.load().rest["count"] == 3


def test_a_step_that_fails_changes_nothing(storage: Storage) -> None:
    before = storage.transact(adding("a"))

    def fail(catalog: Catalog) -> Catalog:
        raise LookupError

    with pytest.raises(LookupError):
        storage.transact(fail)
    assert storage.load() is before
    storage.transact(adding("b"))


def test_what_did_not_change_is_the_same_object(storage: Storage) -> None:
    before = storage.transact(adding("a"))
    assert storage.transact(lambda catalog: catalog) is before
    assert storage.load() is before


def test_threads_lose_nothing(storage: Storage) -> None:
    def work() -> None:
        for _ in range(25):
            storage.transact(counting)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.load().rest["count"] == 100


# What every storage that outlives its process promises.


def entry(version: int, status: str = "staging", **more: Any) -> dict[str, Any]:
    return {"model_name": "m", "version": version, "path": f"models/m/v{version}.onnx", "status": status, **more}


def record(version: int, **more: Any) -> dict[str, Any]:
    return {"model_name": "m", "from": 0, "to": version, "revision": version, **more}


# Keys that nobody knows at every level, out of the usual order, with values that are easily bent.
ODD = {
    "z": {"b": [1, 2.5, None, True, 10**30, -0.0], "a": "ü\U0001f3a5"},
    "videoai": {"revision": 7, "registry_uid": "u", "digest": "d", "more": []},
    "history": [record(1, by="ann"), record(2)],
    "models": [
        entry(2, "production", metadata={"metrics": {"x": 1e-9}, "owner": {"z": 1, "a": [{}]}}, odd=[True, 1]),
        {"note": "first key", **entry(1), "": None},
    ],
    "a": None,
}


def lists(document: dict[str, Any]) -> str:
    """A document as text, so that neither order nor type of a value is overlooked."""
    return json.dumps(document)


def test_everything_survives_in_its_order(open_storage: Open) -> None:
    open_storage().transact(lambda _: Catalog.read(ODD))
    assert lists(open_storage().load().document) == lists(ODD)
    open_storage().transact(adding("b", 1))
    assert lists(open_storage().load().document) == lists({**ODD, "b": 1})


def test_any_catalog_may_follow_any_other(open_storage: Open) -> None:
    """Entries that come, go, change places, and production that moves: what is stored is what was asked for."""
    chance = random.Random(1)  # noqa: S311 - the same each time
    writer, reader = open_storage(), open_storage()
    for _ in range(60):
        versions = chance.sample(range(1, 9), chance.randint(0, 8))
        live = chance.choice(versions) if versions else 0
        models = [entry(v, "production" if v == live else "staging", n=chance.randint(0, 1)) for v in versions]
        records = [record(v) for v in chance.sample(range(1, 9), chance.randint(0, 8))]
        wanted = {"models": models, "history": records}

        def step(catalog: Catalog, wanted: dict[str, Any] = wanted) -> Catalog:
            after = Catalog.read(wanted)
            kept = [
                old if (old := catalog.find(*new.key)) and old.raw == new.raw else new for new in after.entries
            ]  # the same object where nothing changed, as the steps do it
            return Catalog.assemble(wanted, enumerate(kept, 1), after.history)

        writer.transact(step)
        assert lists(reader.load().document) == lists(wanted)
        assert lists(open_storage().load().document) == lists(wanted)


def test_another_ones_change_is_seen_and_nothing_else_is(open_storage: Open) -> None:
    one, other = open_storage(), open_storage()
    one.transact(adding("a", 1))
    seen = other.load()
    assert other.load() is seen
    one.transact(adding("a", 2))
    assert other.load().rest["a"] == 2
    assert other.transact(lambda catalog: catalog) is other.load()
    with pytest.raises(LookupError):
        one.transact(_fail)
    assert other.load() is other.load()


def _fail(catalog: Catalog) -> Catalog:
    raise LookupError


def _count_in_a_process(file: str, times: int, kind: str = "json") -> None:
    storage = KINDS[kind](Path(file), lock_timeout_seconds=60)
    for _ in range(times):
        storage.transact(counting)
    storage.close()


def test_processes_and_threads_lose_nothing(file: Path, kind: str, open_storage: Open) -> None:
    context = multiprocessing.get_context("spawn")
    arguments = (str(file), 25, kind)
    processes = [context.Process(target=_count_in_a_process, args=arguments) for _ in range(2)]
    threads = [threading.Thread(target=_count_in_a_process, args=arguments) for _ in range(2)]
    for worker in (*processes, *threads):
        worker.start()
    reader, seen = open_storage(), [0]
    while any(worker.is_alive() for worker in (*processes, *threads)):
        seen.append(reader.load().rest.get("count", 0))
    for worker in (*processes, *threads):
        worker.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert reader.load().rest["count"] == 100
    assert seen == sorted(seen)


def test_reading_leaves_nothing_behind(file: Path, open_storage: Open) -> None:
    storage = open_storage()
    storage.recover()
    storage.load()
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("others", ["threads", "processes"])
def test_a_stuck_holder_is_unavailable_after_the_timeout(file: Path, open_storage: Open, others: str) -> None:
    other = open_storage()
    impatient = other if others == "threads" else open_storage(lock_timeout_seconds=0.05)
    held, release = threading.Event(), threading.Event()

    def hold(catalog: Catalog) -> Catalog:
        held.set()
        release.wait(60)
        return catalog.with_rest("held", 1)

    thread = threading.Thread(target=other.transact, args=(hold,))
    thread.start()
    try:
        assert held.wait(60)
        vars(impatient)["_timeout"] = 0.05
        with pytest.raises(StorageUnavailable, match=r"has held .*regist"):
            impatient.transact(counting)
    finally:
        release.set()
        thread.join()
    assert impatient.transact(counting).rest == {"models": [], "held": 1, "count": 1}


def test_a_file_that_is_gone_is_not_taken_for_an_empty_one(file: Path, open_storage: Open) -> None:
    storage = open_storage()
    storage.transact(counting)
    away = file.with_name("away")
    file.rename(away)
    for attempt in (storage.load, lambda: storage.transact(counting)):
        with pytest.raises(RegistryFileInvalid, match="gone"):
            attempt()
    assert not file.exists()
    away.rename(file)
    assert storage.transact(counting).rest["count"] == 2


@pytest.mark.parametrize("content", [b"half of a fi", b"\xff" * 5000], ids=["short", "long"])
def test_a_foreign_file_is_refused_and_left_alone(file: Path, open_storage: Open, content: bytes) -> None:
    file.write_bytes(content)
    for attempt in (
        lambda: open_storage().recover() or open_storage().load(),
        lambda: open_storage().transact(counting),
    ):
        with pytest.raises(RegistryFileInvalid, match=str(file)):
            attempt()
    assert file.read_bytes() == content


# What the JSON file promises beyond.


def test_file_locking(file: Path) -> None:
    """Processes and threads that write at once lose nothing, and no reader ever sees anything but a whole file."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count_in_a_process, args=(str(file), 40)) for _ in range(3)]
    for process in processes:
        process.start()
    threads = [threading.Thread(target=_count_in_a_process, args=(str(file), 40)) for _ in range(2)]
    for thread in threads:
        thread.start()
    seen = [0]
    while any(worker.is_alive() for worker in (*processes, *threads)):
        if file.exists():
            seen.append(json.loads(file.read_bytes()).get("count", 0))
    for worker in (*processes, *threads):
        worker.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert json.loads(file.read_bytes())["count"] == 200
    assert seen == sorted(seen)


def test_reading_creates_nothing(file: Path) -> None:
    storage = JsonFileStorage(file)
    storage.recover()
    storage.load()
    assert list(file.parent.iterdir()) == []


def test_a_stuck_lock_is_named_after_the_timeout(file: Path) -> None:
    other = JsonFileStorage(file)
    held, release = threading.Event(), threading.Event()

    def hold(catalog: Catalog) -> Catalog:
        held.set()
        release.wait(60)
        return catalog

    thread = threading.Thread(target=other.transact, args=(hold,))
    thread.start()
    try:
        held.wait(60)
        with pytest.raises(StorageUnavailable, match=r"registry\.json\.lock"):
            JsonFileStorage(file, lock_timeout_seconds=0.05).transact(counting)
    finally:
        release.set()
        thread.join()
    assert JsonFileStorage(file).transact(counting).rest["count"] == 1


def test_the_mode_of_the_file_is_kept(file: Path) -> None:
    file.write_text('{"models": []}')
    file.chmod(0o640)
    JsonFileStorage(file).transact(counting)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_the_file_stays_one(tmp_path: Path, file: Path, there: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "kept.json"
    if there:
        target.write_text('{"models": [], "count": 4}')
    file.symlink_to(target)
    storage = JsonFileStorage(file)
    assert storage.files == (target,)
    assert storage.transact(counting).rest["count"] == (5 if there else 1)
    assert json.loads(target.read_text())["count"] == (5 if there else 1)
    assert file.is_symlink()
    # A server that names the file itself takes the same lock.
    assert sorted(path.name for path in target.parent.iterdir()) == ["kept.json", "kept.json.lock"]
    assert list(tmp_path.glob("*.lock")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_owner_of_the_file_is_kept(file: Path) -> None:
    file.write_text('{"models": []}')
    os.chown(file, 12345, 23456)
    JsonFileStorage(file).transact(counting)
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 23456)


def test_what_a_crash_left_is_cleared_away(file: Path) -> None:
    left = file.with_name(".registry.json.tmp")
    left.write_text("half of a fi")
    storage = JsonFileStorage(file)
    storage.recover()
    assert not left.exists()
    left.write_text("another half")
    storage.transact(counting)
    assert not left.exists()


def test_a_file_that_vanishes_is_not_taken_for_an_empty_one(file: Path) -> None:
    storage = JsonFileStorage(file)
    storage.transact(counting)
    text = file.read_bytes()
    file.unlink()
    for attempt in (storage.load, lambda: storage.transact(counting)):
        with pytest.raises(RegistryFileInvalid, match="gone"):
            attempt()
    assert not file.exists()
    file.write_bytes(text)
    assert storage.transact(counting).rest["count"] == 2


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{\n"models": [', (2, 12)),
        ('{"models": [\n  {"model_name": "m", "version": 0, "path": "models/m", "status": "staging"}]}', (2, 34)),
        ('{"models": [], "videoai": {"registry_uid": "u",\n "revision": "x"}}', (2, 14)),
        ('{"models": [], "history": [{}]}', (1, 28)),
        ("{}", (1, 1)),
    ],
)
def test_an_invalid_file_is_refused_with_its_place_and_never_overwritten(
    file: Path, text: str, place: tuple[int, int]
) -> None:
    file.write_text(text)
    storage = JsonFileStorage(file)
    for attempt in (storage.load, lambda: storage.transact(counting)):
        with pytest.raises(RegistryFileInvalid) as caught:
            attempt()
        assert (caught.value.line, caught.value.column) == place
        assert str(caught.value).startswith(f"{file}:{place[0]}:{place[1]}: ")
    assert file.read_text() == text


def test_a_file_that_has_settled_is_not_read_again_and_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(Files):
        reads = 0

        def read(self, path: Path, known: bytes = b"") -> bytes:
            self.reads += 1
            return super().read(path, known)

    files = Counted()
    storage = JsonFileStorage(file, files=files)
    storage.transact(counting)
    files.reads = 0
    for _ in range(2):
        storage.load()
    assert files.reads == 2, "a young file may change without a sign"
    monkeypatch.setattr("registry_server.json_storage.SETTLED_NANOSECONDS", -1)
    for _ in range(3):
        storage.load()
    assert files.reads == 3
    file.write_text('{"models": [], "by": "hand"}')
    assert storage.load().rest["by"] == "hand"


def test_short_writes_are_continued(file: Path) -> None:
    class Short(Files):
        def write(self, descriptor: int, data: memoryview) -> int:
            return super().write(descriptor, data[:7])

    JsonFileStorage(file, files=Short()).transact(adding("key", "value" * 100))
    assert json.loads(file.read_bytes())["key"] == "value" * 100
