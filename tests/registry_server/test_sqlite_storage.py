"""What the database promises beyond what every storage does."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry_server.catalog import Catalog
from registry_server.entry import read_entry
from registry_server.errors import CommitUncertain, RegistryFileInvalid, StorageUnavailable
from registry_server.history import activation
from registry_server.sqlite_storage import SqliteStorage


def catalog(size: int) -> Catalog:
    models = [
        {"model_name": "m", "version": v, "path": f"models/m/v{v}.onnx", "status": "staging"}
        for v in range(1, size + 1)
    ]
    return Catalog.read({"models": models})


def counting(catalog: Catalog) -> Catalog:
    return catalog.with_rest("count", catalog.rest.get("count", 0) + 1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.fixture
def storage(file: Path) -> Iterator[SqliteStorage]:
    with closing(SqliteStorage(file)) as storage:
        storage.transact(counting)
        yield storage


def shell(file: Path, *statements: str) -> list[Any]:
    """What a person does with another program; returns the rows of the last statement."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]


def test_it_is_synced_at_every_commit(storage: SqliteStorage, file: Path) -> None:
    assert shell(file, "PRAGMA journal_mode") == [("wal",)]
    assert storage._connection
    assert storage._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_change_of_one_entry_writes_a_few_rows(storage: SqliteStorage) -> None:
    storage.transact(lambda _: catalog(500))
    assert storage._connection
    before = storage._connection.total_changes
    entry = storage.load().entries[250]
    storage.transact(lambda catalog: catalog.with_entry(read_entry({**entry.raw, "status": "archived"})))
    storage.transact(lambda catalog: catalog.without(*entry.key).with_entry(entry))
    storage.transact(counting)
    assert storage._connection.total_changes - before == 2 + 2 + 1, "entries are deleted and inserted"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.lists(st.integers(0, 5), unique=True), st.integers(0, 2)), max_size=8))
def test_a_history_is_read_back_in_its_order_however_it_changed(
    storage: SqliteStorage, file: Path, steps: list[tuple[list[int], int]]
) -> None:
    """Each step keeps some records, in any order, and adds some."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for kept, added in steps:
        old = storage.load().history
        new = [activation("m", 0, 1, moment=moment, revision=len(old) + number) for number in range(added)]
        history = (*(old[index] for index in kept if index < len(old)), *new)
        storage.transact(lambda catalog, history=history: catalog.with_history(history))
        with closing(SqliteStorage(file)) as other:
            assert [record.raw for record in other.load().history] == [record.raw for record in history]


def test_a_record_added_to_a_full_history_touches_two_rows(storage: SqliteStorage) -> None:
    records = [activation("m", 0, 1, moment=datetime.now(UTC), revision=number) for number in range(500)]
    storage.transact(lambda catalog: catalog.with_history(tuple(records[:-1])))
    assert storage._connection
    before = storage._connection.total_changes
    storage.transact(lambda catalog: catalog.with_history(tuple(records[1:])))
    assert storage._connection.total_changes - before == 2


def test_a_large_reload_parses_only_what_changed(storage: SqliteStorage, file: Path) -> None:
    storage.transact(lambda _: catalog(50))
    before = storage.load().entries
    with closing(SqliteStorage(file)) as other:
        other.transact(lambda catalog: catalog.without("m", 7))
    after = storage.load().entries
    assert [entry for entry in before if entry.version != 7] == list(after)
    assert all(any(entry is old for old in before) for entry in after)


def test_the_database_itself_refuses_two_versions_in_production(storage: SqliteStorage, file: Path) -> None:
    storage.transact(lambda _: catalog(2))
    promote = "UPDATE models SET object = json_set(object, '$.status', 'production') WHERE position = {}"
    shell(file, promote.format(1))
    with pytest.raises(sqlite3.IntegrityError):
        shell(file, promote.format(2))
    assert storage.load().production("m").version == 1


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE models SET object = '{}' WHERE position = 2", "table models, position 2: .*model_name"),
        ("UPDATE head SET object = '{\"videoai\": 1}'", "table head: videoai"),
        ('UPDATE head SET object = \'{"a": 1, "a": 2}\'', "table head, position 1: .*twice"),
        ("INSERT INTO history VALUES (1, '[]')", "table history, position 1"),
        ("DELETE FROM head", "table head: expected one row, found 0"),
        ("PRAGMA user_version = 2", "newer release"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    storage: SqliteStorage, file: Path, statement: str, complaint: str
) -> None:
    storage.transact(lambda _: catalog(3))
    shell(file, statement)
    with closing(SqliteStorage(file)) as fresh, pytest.raises(RegistryFileInvalid, match=complaint):
        fresh.load()


def test_another_programs_database_is_left_alone(file: Path) -> None:
    shell(file, "CREATE TABLE birds (name)")
    before = file.read_bytes()
    with closing(SqliteStorage(file)) as storage:
        for attempt in (storage.recover, storage.load, partial(storage.transact, counting)):
            with pytest.raises(RegistryFileInvalid, match="another program"):
                attempt()
        assert file.read_bytes() == before
        file.unlink()
        assert storage.transact(counting).rest["count"] == 1


def test_a_damaged_database_is_refused_at_start(storage: SqliteStorage, file: Path) -> None:
    storage.transact(lambda _: catalog(500))
    storage.close()
    whole = file.read_bytes()
    file.write_bytes(whole[:8192] + b"\xff" * 8192 + whole[16384:])
    with closing(SqliteStorage(file)) as fresh, pytest.raises(RegistryFileInvalid, match=r"registry\.db: "):
        fresh.recover()


def test_a_file_put_in_its_place_takes_no_changes(storage: SqliteStorage, file: Path) -> None:
    copy = file.with_name("copy")
    with closing(SqliteStorage(copy)) as other:
        other.transact(counting)
    copy.replace(file)
    for attempt in (storage.load, partial(storage.transact, counting)):
        with pytest.raises(RegistryFileInvalid, match="restart the server"):
            attempt()


class Failing(sqlite3.Connection):
    """Fails the k-th statement from when it is armed; 0 = none."""

    remaining = 0
    failed = ""

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        self._count(sql)
        return super().execute(sql, *rest)

    def executemany(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        self._count(sql)
        return super().executemany(sql, *rest)

    def _count(self, sql: str) -> None:
        Failing.remaining -= 1
        if Failing.remaining == 0:
            Failing.failed = sql.split()[0]
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error


def test_whichever_statement_fails_the_state_is_old_or_new_and_the_next_write_works(file: Path) -> None:
    failed = []
    with closing(SqliteStorage(file, connect=partial(sqlite3.connect, factory=Failing))) as storage:
        storage.transact(lambda _: counting(catalog(3)))
        for k in range(1, 50):
            count = storage.load().rest["count"]
            Failing.remaining, Failing.failed = k, ""
            try:
                storage.transact(lambda catalog: counting(catalog).without("m", 1).with_entry(catalog.entries[0]))
            except CommitUncertain:
                assert Failing.failed == "COMMIT"
                assert storage.load().rest["count"] in (count, count + 1)
            except StorageUnavailable:
                assert storage.load().rest["count"] == count
            Failing.remaining = 0
            count = storage.load().rest["count"]
            assert storage.transact(counting).rest["count"] == count + 1
            if not Failing.failed:
                break
            failed.append(Failing.failed)
    assert failed[0] == "PRAGMA"
    assert {"BEGIN", "DELETE", "INSERT"} <= set(failed)
    assert failed[-1] == "COMMIT"


FULL_DISK = """
import resource, sys
from pathlib import Path
from registry_server.errors import StorageUnavailable
from registry_server.sqlite_storage import SqliteStorage

storage = SqliteStorage(Path(sys.argv[1]))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
count = storage.load().rest["count"]
for size in range(0, 200_000, 20_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        storage.transact(lambda catalog: catalog.with_rest("big", "x" * 250_000))
        sys.exit("the limit was not met")
    except StorageUnavailable as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "big" not in storage.load().rest
    count += 1
    assert storage.transact(lambda catalog: catalog.with_rest("count", count)).rest["count"] == count
storage.close()
"""


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY, reason="limits are set")
def test_a_file_that_cannot_grow_changes_nothing_and_the_next_write_works(storage: SqliteStorage, file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(file)], capture_output=True, text=True, env=dict(os.environ), timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(file)) == 10
    assert storage.load().rest["count"] == 11
