"""The catalog as one JSON file that a person can read and edit; docs/durability.md says what it promises.

A reader sees the old file or the new one, never a mix. A change is durable before it is acknowledged: new file in the
same folder, all bytes written, fsync, a last look at the old file, rename over it, fsync of the folder. Processes take
turns through a lock file beside it; the lock file stays, for removing it would let two of them in.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, time_ns

import structlog
from filelock import FileLock, Timeout

from registry_server import collector, document, lineage
from registry_server.catalog import Catalog, InvalidDocument
from registry_server.errors import ChangedMeanwhile, CommitUncertain, RegistryFileInvalid, StorageUnavailable
from registry_server.files import Files
from registry_server.mounts import is_mount
from registry_server.storage import Step

log = structlog.get_logger(__name__)

LOCK_POLL_SECONDS = 0.005

MOUNT_THE_FOLDER = "it is a mount of its own, which cannot be replaced; mount the folder, not the file"

SETTLED_NANOSECONDS = 2_000_000_000
"""Two changes within a clock tick of the file system look like one, so the marks of a young file prove nothing."""

Mark = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was last read or written. `data` is None while there is no file.

    `mark` tells the file from any later one; None if it was too young for that when it was read. `durable`: a power cut
    cannot take it back; what somebody else has just written may not have been synced yet.
    """

    data: bytes | None
    catalog: Catalog
    mark: Mark | None = None
    durable: bool = False


class JsonFileStorage:
    """`Storage` over a JSON file; see docs/registry-file.md. A file that does not exist yet is an empty catalog."""

    def __init__(self, path: Path, *, lock_timeout_seconds: float = 5.0, files: Files | None = None) -> None:
        # A link to the file is followed: replacing the link would leave the file that a person meant as it was.
        self._path = path = Path(os.path.realpath(path))
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._timeout = lock_timeout_seconds
        self._files = files or Files()
        self._here = threading.Lock()
        self._beyond = FileLock(
            f"{path}.lock", poll_interval=LOCK_POLL_SECONDS, thread_local=True, fallback_to_soft=False
        )
        self._seen: _Seen | None = None
        self._layout = document.Layout()

    @property
    def files(self) -> tuple[Path, ...]:
        return (self._path,)

    def load(self) -> Catalog:
        seen = self._seen
        if seen is not None and seen.mark is not None and seen.mark == self._mark():
            return seen.catalog
        return self._load_anew()

    def transact(self, step: Step) -> Catalog:
        with self._locked():
            try:
                return self._transact(step)
            except ChangedMeanwhile:
                return self._transact(step)

    def recover(self) -> None:
        if is_mount(self._path):
            raise StorageUnavailable(f"{self._path}: {MOUNT_THE_FOLDER}")
        if os.path.lexists(self._temporary):
            try:
                with self._locked(), self._explained("clear"):
                    self._files.remove(self._temporary)
            except StorageUnavailable as error:  # the next change clears it, or says what is wrong
                log.warning("cannot remove what a crash left behind", file=str(self._temporary), reason=str(error))

    @contextmanager
    def editing(self) -> Iterator[None]:
        """Keep others from editing the text; changes through `transact` go on. Raises StorageUnavailable."""
        lock = FileLock(f"{self._path}.edit.lock", fallback_to_soft=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StorageUnavailable(f"somebody else is editing {self._path}; nothing was changed") from None
        except (OSError, NotImplementedError) as error:
            raise StorageUnavailable(f"cannot lock {lock.lock_file}: {error}") from error
        self._share(lock.lock_file)
        try:
            yield
        finally:
            lock.release()

    def read_text(self) -> bytes | None:
        """The file as it is, whether or not it can be read as a registry; None if there is none."""
        return self._read()

    def replace_text(self, before: bytes | None, after: bytes) -> None:
        """Put a person's text in the place of `before`, as it is.

        Raises RegistryFileInvalid for what is no registry, ChangedMeanwhile if the file holds something else by now,
        and what `transact` raises.
        """
        with self._locked():
            catalog = self._parse(after)
            if self._read() != before:
                raise ChangedMeanwhile(str(self._path))
            self._seen = _Seen(before, catalog)  # what the last look must find
            try:
                self._replace(after)
            except BaseException:
                self._seen = None
                raise
            self._seen = _Seen(after, catalog, durable=True)

    def _transact(self, step: Step) -> Catalog:
        before = self._load_anew()
        after = step(before)
        if after is not before:
            data = self._layout.dump(after.head, {"models": after.entries, "history": after.history})
            self._replace(data)
            self._seen = _Seen(data, after, durable=True)
        else:
            self._confirm()
        return after

    def _confirm(self) -> None:
        """Make what was read durable, for it is about to be acknowledged."""
        seen = self._seen
        if seen is None or seen.data is None or seen.durable:
            return
        try:
            self._sync(self._files.open(self._path))
            self._sync(self._files.open_folder(self._path.parent))
        except OSError as error:
            raise self._uncertain(error) from error
        self._seen = replace(seen, durable=True)

    def close(self) -> None:
        """Nothing is held open between two uses."""

    def _load_anew(self) -> Catalog:
        seen, mark = self._seen, self._mark()
        data = self._read()
        if seen is not None and data == seen.data:
            self._seen = replace(seen, mark=mark)
            return seen.catalog
        if data is None:
            if seen is not None and seen.data is not None:
                raise RegistryFileInvalid(str(self._path), 0, 0, "the file is gone; put it back to go on")
            catalog = Catalog.empty()
        else:
            catalog = self._parse(data)
        self._seen = _Seen(data, catalog, mark)
        return catalog

    def _mark(self) -> Mark | None:
        """None for a file that has just changed, or that cannot be looked at."""
        try:
            found = self._files.stat(self._path)
        except OSError:
            return None
        if time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < SETTLED_NANOSECONDS:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _read(self) -> bytes | None:
        """The file as it is now; the very object that was seen before if that is what it holds."""
        known = self._seen.data if self._seen else None
        try:
            return self._files.read(self._path, known or b"")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageUnavailable(f"cannot read {self._path}: {error.strerror}") from error

    def _parse(self, data: bytes) -> Catalog:
        try:
            with collector.paused():
                catalog = Catalog.read(document.parse(data))
                lineage.read_stamp(catalog)
        except document.MalformedText as error:
            raise RegistryFileInvalid(str(self._path), error.line, error.column, error.reason) from None
        except InvalidDocument as error:
            line, column = document.locate(document.decode(data), error.where)
            raise RegistryFileInvalid(str(self._path), line, column, error.reason) from None
        return catalog

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude the other threads, then the other processes. Raises StorageUnavailable after the timeout."""
        deadline = monotonic() + self._timeout
        if not self._here.acquire(timeout=self._timeout):
            raise StorageUnavailable(f"another change has held the registry for {self._timeout:g} s")
        try:
            self._acquire_file(max(deadline - monotonic(), 0))
            try:
                yield
            finally:
                self._beyond.release()
        finally:
            self._here.release()

    def _acquire_file(self, timeout: float) -> None:
        try:
            self._beyond.acquire(timeout=timeout)
        except Timeout:
            raise StorageUnavailable(
                f"another process has held {self._beyond.lock_file} for {self._timeout:g} s; nothing was changed"
            ) from None
        except (OSError, NotImplementedError) as error:
            raise StorageUnavailable(f"cannot lock {self._beyond.lock_file}: {error}") from error
        self._share(self._beyond.lock_file)

    def _share(self, lock_file: str) -> None:
        """Give a lock file that root has made to whoever has the registry: their servers must be able to lock it."""
        if os.geteuid() != 0:
            return
        with suppress(OSError):
            owner = (self._path if self._path.exists() else self._path.parent).stat()
            made = Path(lock_file).stat()
            if made.st_uid == 0 and (owner.st_uid, owner.st_gid) != (made.st_uid, made.st_gid):
                os.chown(lock_file, owner.st_uid, owner.st_gid)

    def _replace(self, data: bytes) -> None:
        try:
            with self._explained("write"):
                self._files.remove(self._temporary)  # left by a crash, or by nobody: the lock is ours
                self._write(data)
                self._check_unchanged()
                self._move(data)
        except BaseException:
            with suppress(OSError):
                self._files.remove(self._temporary)
            raise
        try:
            self._sync(self._files.open_folder(self._path.parent))
        except OSError as error:
            raise self._uncertain(error) from error

    def _check_unchanged(self) -> None:
        """The last look before the file is replaced: edits take no lock. Raises ChangedMeanwhile."""
        seen = self._seen
        if seen is None or (seen.mark is not None and seen.mark == self._mark()):
            return
        if self._read() != seen.data:
            raise ChangedMeanwhile(str(self._path))

    def _move(self, data: bytes) -> None:
        """Put the new file in place. Network file systems may report a failure of what they did all the same."""
        try:
            self._files.replace(self._temporary, self._path)
        except OSError as error:
            if not os.path.lexists(self._temporary) and self._read() == data:
                raise self._uncertain(error) from error
            raise

    def _uncertain(self, error: OSError) -> CommitUncertain:
        self._seen = None
        return CommitUncertain(
            f"the commit is uncertain: {self._path} holds the change, but may lose it in a power cut: "
            f"{error.strerror}; repeat it with the same request_id"
        )

    def _write(self, data: bytes) -> None:
        descriptor = self._files.create(self._temporary)
        try:
            self._take_after_target(descriptor)
            rest = memoryview(data)
            while rest:
                rest = rest[self._files.write(descriptor, rest) :]
            self._files.sync(descriptor)
        finally:
            self._files.close(descriptor)

    def _take_after_target(self, descriptor: int) -> None:
        """Mode and owner of the file that is to be replaced; the owner as far as the system lets us."""
        try:
            target = self._files.stat(self._path)
        except FileNotFoundError:
            return
        if (target.st_uid, target.st_gid) != (os.geteuid(), os.getegid()):
            with suppress(PermissionError):
                self._files.chown(descriptor, target.st_uid, target.st_gid)
        self._files.chmod(descriptor, stat.S_IMODE(target.st_mode))

    def _sync(self, descriptor: int) -> None:
        try:
            self._files.sync(descriptor)
        finally:
            self._files.close(descriptor)

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = MOUNT_THE_FOLDER if error.errno == errno.EBUSY else error.strerror
            raise StorageUnavailable(f"cannot {action} {self._path}: {reason}; nothing was changed") from error
