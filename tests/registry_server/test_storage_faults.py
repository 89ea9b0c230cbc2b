"""Whatever the disk does, the file is the old one or the new one, nothing is left behind, and the next change works."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from registry_server import json_storage, mounts
from registry_server.catalog import Catalog
from registry_server.errors import ChangedMeanwhile, CommitUncertain, RegistryFileInvalid, StorageUnavailable
from registry_server.files import Files
from registry_server.json_storage import JsonFileStorage

ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EINTR, errno.EBUSY]
QUIET = ["registry.json", "registry.json.lock"]

SUCCESS = ["stat", "read", "remove", "create", "stat", "chmod", "write", "sync", "close"]
"""What a change does before its last look at the file; the rest follows in MOVE."""
MOVE = ["read", "replace", "open_folder", "sync", "close"]


class Failing(Files):
    """Fails the k-th operation from when it is armed, or all from the k-th on; 0 = none.

    A `close` that fails has closed all the same, as the system call has. `lost_reply`: `replace` works, then fails.
    """

    def __init__(self) -> None:
        self.armed_at, self.persistent, self.number = 0, False, errno.EIO
        self.lost_reply = False
        self.done: list[str] = []
        self.failed: list[str] = []

    def arm(self, k: int, number: int = errno.EIO, *, persistent: bool = False) -> None:
        self.armed_at, self.number, self.persistent = k, number, persistent
        self.done, self.failed = [], []

    def __getattribute__(self, name: str) -> Any:
        operation = super().__getattribute__(name)
        if name.startswith("_") or name == "arm" or not callable(operation):
            return operation

        def counted(*arguments: Any) -> Any:
            self.done.append(name)
            position = len(self.done)
            hit = position >= self.armed_at if self.persistent else position == self.armed_at
            if not self.armed_at or not hit:
                return operation(*arguments)
            self.failed.append(name)
            if name == "close" or (name == "replace" and self.lost_reply):
                operation(*arguments)
            raise OSError(self.number, os.strerror(self.number))

        return counted


def counting(catalog: Catalog) -> Catalog:
    return catalog.with_rest("count", catalog.rest.get("count", 0) + 1)


def count_in(file: Path) -> int:
    count = json.loads(file.read_bytes())["count"]
    assert isinstance(count, int)
    return count


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def outcome(storage: JsonFileStorage) -> StorageUnavailable | None:
    try:
        storage.transact(counting)
    except StorageUnavailable as error:
        return error
    return None


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "registry.json"


@pytest.fixture
def files() -> Failing:
    return Failing()


@pytest.fixture
def storage(file: Path, files: Failing) -> JsonFileStorage:
    storage = JsonFileStorage(file, files=files)
    storage.transact(counting)
    return storage


def test_a_change_is_these_operations(files: Failing, storage: JsonFileStorage) -> None:
    files.arm(0)
    storage.transact(counting)
    assert files.done == SUCCESS + MOVE


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "persistently"])
@pytest.mark.parametrize("number", ERRORS, ids=[errno.errorcode[number] for number in ERRORS])
@pytest.mark.parametrize("k", range(1, len(SUCCESS + MOVE) + 1))
def test_the_kth_operation_fails(
    file: Path, files: Failing, storage: JsonFileStorage, k: int, number: int, persistent: bool
) -> None:
    before, opened = file.read_bytes(), descriptors()
    files.arm(k, number, persistent=persistent)
    error = outcome(storage)
    assert files.failed[0] == (SUCCESS + MOVE)[k - 1]
    if error is None:
        assert files.failed == ["stat"], "a failed look at the marks only leads to a look at the content"
    elif isinstance(error, CommitUncertain):
        assert k > len(SUCCESS) + 2, "only past the replace"
        assert "uncertain" in str(error)
        assert count_in(file) == 2
    else:
        assert k <= len(SUCCESS) + 2
        assert "mount the folder" in str(error) or os.strerror(number) in str(error)
        assert file.read_bytes() == before
    assert descriptors() == opened
    if not persistent:
        assert names(file.parent) == QUIET
    files.arm(0)
    count = count_in(file)
    assert storage.transact(counting).rest["count"] == count + 1
    assert count_in(file) == count + 1
    assert names(file.parent) == QUIET
    assert JsonFileStorage(file).load().rest["count"] == count + 1


@pytest.mark.parametrize("number", ERRORS, ids=[errno.errorcode[number] for number in ERRORS])
def test_a_replace_that_worked_but_was_reported_as_failed_is_uncertain(
    file: Path, files: Failing, storage: JsonFileStorage, number: int
) -> None:
    files.lost_reply = True
    files.arm(len(SUCCESS) + 2, number)
    with pytest.raises(CommitUncertain):
        storage.transact(counting)
    assert count_in(file) == 2
    files.arm(0)
    assert storage.transact(counting).rest["count"] == 3


def test_what_is_uncertain_is_synced_before_it_is_acknowledged(files: Failing, storage: JsonFileStorage) -> None:
    """A repeated request finds its change made and writes nothing; its OK must mean as much as any other."""
    files.arm(len(SUCCESS + MOVE) - 1)
    with pytest.raises(CommitUncertain):
        storage.transact(counting)
    confirm = ["stat", "read", "open", "sync", "close", "open_folder", "sync", "close"]
    for k in range(3, len(confirm) + 1):
        files.arm(k)
        with pytest.raises(CommitUncertain):
            storage.transact(lambda catalog: catalog)
    files.arm(0)
    storage.transact(lambda catalog: catalog)
    assert files.done == confirm
    files.arm(0)
    storage.transact(lambda catalog: catalog)
    assert files.done == ["stat", "read"]


def test_short_writes_that_end_in_a_full_disk(file: Path) -> None:
    class Short(Failing):
        def write(self, descriptor: int, data: memoryview) -> int:
            return super().write(descriptor, data[:7])

    files = Short()
    storage = JsonFileStorage(file, files=files)
    storage.transact(counting)
    before = file.read_bytes()
    for k in range(SUCCESS.index("write") + 1, SUCCESS.index("write") + 5):
        files.arm(k, errno.ENOSPC)
        with pytest.raises(StorageUnavailable, match="No space left"):
            storage.transact(counting)
        assert (file.read_bytes(), names(file.parent)) == (before, QUIET)
    files.arm(0)
    assert storage.transact(counting).rest["count"] == 2


def edits(file: Path, texts: list[str]) -> Callable[[Catalog], Catalog]:
    """A step that has somebody edit the file, in place, while the change is being made."""

    def step(catalog: Catalog) -> Catalog:
        if texts:
            file.write_text(texts.pop(0))
        return counting(catalog)

    return step


def test_an_edit_that_comes_between_is_kept_and_the_change_is_made_on_it(file: Path, storage: JsonFileStorage) -> None:
    after = storage.transact(edits(file, ['{"models": [], "count": 7, "by": "hand"}']))
    assert (after.rest["count"], after.rest["by"]) == (8, "hand")
    assert json.loads(file.read_text()) == after.document
    assert names(file.parent) == QUIET


def test_an_edit_of_the_same_length_within_a_clock_tick_is_noticed(file: Path, storage: JsonFileStorage) -> None:
    text = file.read_text()

    def step(catalog: Catalog) -> Catalog:
        if catalog.rest["count"] == 1:
            marks = file.stat()
            file.write_text(text.replace("1", "5"))
            os.utime(file, ns=(marks.st_atime_ns, marks.st_mtime_ns))
        return counting(catalog)

    assert storage.transact(step).rest["count"] == 6


def test_an_edit_of_a_settled_file_is_noticed_by_its_marks(
    file: Path, files: Failing, storage: JsonFileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_storage, "SETTLED_NANOSECONDS", -1)
    files.arm(0)
    storage.transact(counting)
    assert files.done == [*SUCCESS, "stat", *MOVE[1:]]
    assert storage.transact(edits(file, ['{"models": [], "count": 7}'])).rest["count"] == 8


def test_edits_without_end_are_given_up(file: Path, storage: JsonFileStorage) -> None:
    texts = [f'{{"models": [], "count": {count}}}' for count in (10, 20, 30)]
    with pytest.raises(ChangedMeanwhile, match="edited"):
        storage.transact(edits(file, texts))
    assert count_in(file) == 20
    assert names(file.parent) == QUIET
    assert texts
    assert storage.transact(counting).rest["count"] == 21


def test_an_unreadable_edit_that_comes_between_is_left_alone(file: Path, storage: JsonFileStorage) -> None:
    with pytest.raises(RegistryFileInvalid):
        storage.transact(edits(file, ['{"models": [']))
    assert file.read_text() == '{"models": ['
    assert names(file.parent) == QUIET


def test_a_file_that_appears_or_vanishes_meanwhile_is_noticed(file: Path) -> None:
    storage = JsonFileStorage(file)
    assert storage.transact(edits(file, ['{"models": [], "count": 7}'])).rest["count"] == 8

    def vanish(catalog: Catalog) -> Catalog:
        file.unlink()
        return counting(catalog)

    with pytest.raises(RegistryFileInvalid, match="gone"):
        storage.transact(vanish)
    assert names(file.parent) == ["registry.json.lock"]


# The same through the server.


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, files: Failing) -> Failing:
    """The file operations of the server that the test starts."""
    monkeypatch.setattr(json_storage, "Files", lambda: files)
    return files


async def test_the_answer_to_an_uncertain_commit_and_its_repetition(
    root: Any, serve: Any, served: Failing, fails: Any
) -> None:
    path = root.add_model("m", 1)
    async with serve(root) as client:
        await client.register("m", 1, path)
        armed = {"open_folder": errno.EIO}
        operation = type(served).open_folder

        def fail(self: Failing, folder: Path) -> int:
            if armed:
                raise OSError(armed.popitem()[1], "Input/output error")
            return operation(self, folder)

        served.open_folder = fail.__get__(served)  # type: ignore[method-assign]
        details = await fails(client.activate("m", 1, request_id="r"), grpc.StatusCode.UNAVAILABLE)
        assert "uncertain" in details
        assert (await client.production("m")).model.version == 1, "it was loaded again"
        again = await client.activate("m", 1, request_id="r")
        assert again.model.version == 1
        assert (await client.production("m")).revision == again.revision
    assert [record["to"] for record in root.document()["history"]] == [1]


async def test_the_server_repeats_a_change_by_itself_and_then_answers_aborted(
    root: Any, serve: Any, monkeypatch: pytest.MonkeyPatch, fails: Any
) -> None:
    path = root.add_model("m", 1)
    async with serve(root) as client:
        await client.register("m", 1, path)
        check = JsonFileStorage._check_unchanged
        remaining = [1]

        def edited(self: JsonFileStorage) -> None:
            if remaining[0]:
                remaining[0] -= 1
                root.edit({**root.document(), "edit": remaining[0]})
            check(self)

        monkeypatch.setattr(JsonFileStorage, "_check_unchanged", edited)
        answer = await client.activate("m", 1)
        assert (answer.model.version, root.document()["edit"]) == (1, 0)
        assert root.document()["models"][0]["status"] == "production"
        remaining[0] = 2
        assert "edited" in await fails(client.register("m", 2, path), grpc.StatusCode.ABORTED)
        assert [entry["version"] for entry in root.document()["models"]] == [1]
        await client.register("m", 2, path)


# Mounts.


def test_mounts_of_single_files_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "36 35 98:0 / / rw,noatime master:1 - ext4 /dev/root rw\n"
        f"41 36 98:0 /x {tmp_path}/with\\040blank/registry.json rw,relatime - ext4 /dev/root rw\n"
    )
    monkeypatch.setattr(mounts, "_TABLE", table)
    assert mounts.is_mount(tmp_path / "with blank" / "registry.json")
    assert not mounts.is_mount(tmp_path / "with blank")
    monkeypatch.setattr(mounts, "_TABLE", tmp_path / "none")
    assert not mounts.is_mount(tmp_path / "registry.json")
    assert mounts.is_mount(Path("/"))


def test_a_single_file_mount_is_refused_at_start(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_storage, "is_mount", lambda path: path == file)
    with pytest.raises(StorageUnavailable, match="mount the folder, not the file"):
        JsonFileStorage(file).recover()


def test_a_leftover_that_cannot_be_cleared_does_not_keep_the_server_from_reading(
    file: Path, files: Failing, storage: JsonFileStorage
) -> None:
    left = file.with_name(".registry.json.tmp")
    left.write_text("half")
    files.arm(1, errno.EROFS)
    storage.recover()
    assert left.exists()
    assert storage.load().rest["count"] == 1
    storage.recover()
    assert not left.exists()
