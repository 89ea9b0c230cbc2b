"""The catalog in a SQLite database, for registries of many entries: a change writes the rows that differ.

SQLite sees to what the JSON storage does by hand: a reader sees the state before a change or after it, processes take
turns, and a change is on disk before it is acknowledged (write-ahead log, synced at every commit).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

from registry_server import collector, sqlite_tables
from registry_server.catalog import Catalog
from registry_server.errors import CommitUncertain, RegistryFileInvalid, StorageUnavailable
from registry_server.sqlite_tables import APPLICATION_ID, EMPTY, FORMAT, SCHEMA, Content, InvalidRow
from registry_server.storage import Step

BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
UNSOUND = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
BUSY_POLL_SECONDS = 0.005

Connect = Callable[..., sqlite3.Connection]
Identity = tuple[int, int]


class SqliteStorage:
    """`Storage` over a SQLite database; see docs/decisions/sqlite-storage.md.

    A file that does not exist yet is an empty catalog; the first change creates it. `connect` stands in for
    sqlite3.connect in tests.
    """

    def __init__(self, path: Path, *, lock_timeout_seconds: float = 5.0, connect: Connect = sqlite3.connect) -> None:
        self._path = path
        self._timeout = lock_timeout_seconds
        self._connect = connect
        self._here = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened: Identity | None = None
        self._seen = EMPTY
        self._version: int | None = None
        """SQLite's number for the state that `_seen` was read from; other connections' commits make it another."""

    @property
    def files(self) -> tuple[Path, ...]:
        return self._path, self._path.with_name(f"{self._path.name}-wal")

    def load(self) -> Catalog:
        with self._locked("read") as deadline:
            if self._identity() is None and self._opened is None:
                return self._seen.catalog
            connection = self._open(deadline)
            with _transaction(connection, "BEGIN"):
                return self._look(connection).catalog

    def transact(self, step: Step) -> Catalog:
        with self._locked("write") as deadline:
            connection = self._open(deadline)
            with _transaction(connection, "BEGIN IMMEDIATE"):
                before = self._look(connection)
                after = step(before.catalog)
                if after is not before.catalog:
                    if before is EMPTY:
                        self._create(connection)
                    content = sqlite_tables.write(connection, before, after)
                    self._commit(connection)
                    self._seen = content
                return after

    def recover(self) -> None:
        """SQLite clears up by itself when it opens the database; what is there is checked as a whole."""
        with self._locked("read") as deadline:
            if self._identity() is None:
                return
            connection = self._open(deadline)
            (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if result != "ok":
                raise self._invalid(f"the database is damaged: {result}")

    def close(self) -> None:
        with self._here:
            self._disconnect()
            self._opened, self._seen = None, EMPTY

    def _look(self, connection: sqlite3.Connection) -> Content:
        """What is stored, within a transaction; only read if another connection has written since."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            if self._has_tables(connection):
                with collector.paused():
                    self._seen = sqlite_tables.read(connection, self._seen)
            elif self._seen is not EMPTY:
                raise self._invalid("the tables are gone; put the database back to go on")
            self._version = version
        return self._seen

    def _commit(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if _code(error) != sqlite3.SQLITE_IOERR:
                raise
            raise CommitUncertain(f"whether {self._path} holds the change is not known: {error}") from error

    def _create(self, connection: sqlite3.Connection) -> None:
        for statement in SCHEMA:
            connection.execute(statement)

    def _open(self, deadline: float) -> sqlite3.Connection:
        """The connection, made if there is none, that waits for others until `deadline`."""
        identity = self._identity()
        if self._opened is not None and identity != self._opened:
            # The connection holds on to the file that it opened: what is written there now would be lost.
            what = "is gone; put it back" if identity is None else "is not the one that was opened; restart the server"
            raise self._invalid(f"the file {what} to go on")
        if self._connection is None:
            self._connection = self._connect(
                self._path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64
            )
        remaining = max(deadline - monotonic(), 0)
        self._connection.execute(f"PRAGMA busy_timeout = {int(remaining * 1000)}")
        if self._version is None:
            with _transaction(self._connection, "BEGIN"):
                self._check(self._connection)
            self._prepare(self._connection, deadline)
            self._opened = self._identity()
        return self._connection

    def _check(self, connection: sqlite3.Connection) -> None:
        """Refuse what is not ours before anything is changed in it."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID and (application or version or self._has_tables(connection)):
            raise self._invalid("a SQLite database of another program, not a registry")
        if version > FORMAT:
            raise self._invalid(f"written by a newer release: format {version}, this one knows {FORMAT}")

    def _prepare(self, connection: sqlite3.Connection, deadline: float) -> None:
        connection.execute("PRAGMA synchronous = FULL")
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError as error:  # SQLite does not wait here by itself
                if _code(error) not in BUSY or monotonic() >= deadline:
                    raise
                sleep(BUSY_POLL_SECONDS)
        if mode != "wal":
            raise StorageUnavailable(f"{self._path}: this file system cannot hold a write-ahead log; nothing changed")

    def _has_tables(self, connection: sqlite3.Connection) -> bool:
        return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None

    def _identity(self) -> Identity | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageUnavailable(f"cannot read {self._path}: {error.strerror}") from error
        return found.st_dev, found.st_ino

    @contextmanager
    def _locked(self, action: str) -> Iterator[float]:
        """Exclude the other threads; gives the time by which to be done. SQLite's errors become ours."""
        deadline = monotonic() + self._timeout
        if not self._here.acquire(timeout=self._timeout):
            raise StorageUnavailable(f"another change has held the registry for {self._timeout:g} s")
        try:
            yield deadline
        except (sqlite3.Error, CommitUncertain) as error:
            self._disconnect()
            if isinstance(error, sqlite3.Error):
                raise self._explained(action, error) from error
            raise
        except RegistryFileInvalid:
            if self._opened is None:  # another file may be put there
                self._disconnect()
            raise
        except InvalidRow as error:
            raise self._invalid(str(error)) from None
        finally:
            self._here.release()

    def _explained(self, action: str, error: sqlite3.Error) -> Exception:
        if _code(error) in BUSY:
            return StorageUnavailable(
                f"another process has held {self._path} for {self._timeout:g} s; nothing was changed"
            )
        if _code(error) in UNSOUND:
            return self._invalid(f"not a sound SQLite database: {error}")
        return StorageUnavailable(f"cannot {action} {self._path}: {error}; nothing was changed")

    def _invalid(self, reason: str) -> RegistryFileInvalid:
        return RegistryFileInvalid(str(self._path), 0, 0, reason)

    def _disconnect(self) -> None:
        """After an error nothing that the connection believes is relied on; the next use makes a new one."""
        connection, self._connection, self._version = self._connection, None, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    """What is not committed within is undone."""
    connection.execute(begin)
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error of Python's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
