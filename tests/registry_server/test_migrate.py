"""Where a registry is kept, and how it moves from one place to another."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from registry_server import locations
from registry_server.__main__ import main
from registry_server.locations import Location
from registry_server.sqlite_storage import SqliteStorage

JSON, SQLITE = "file:models/registry.json", "sqlite:models/registry.db"


@pytest.mark.parametrize(
    ("url", "scheme", "path"),
    [
        ("file:models/registry.json", "file", "/srv/models/registry.json"),
        ("file:///a/b.json", "file", "/a/b.json"),
        ("sqlite:registry.db", "sqlite", "/srv/registry.db"),
        ("sqlite:../registry.db", "sqlite", "/srv/../registry.db"),
        ("sqlite:/a.db", "sqlite", "/a.db"),
        ("sqlite:///a.db", "sqlite", "/a.db"),
        ("sqlite:////a/b.db", "sqlite", "/a/b.db"),
        ("SQLite:///a%20b%3F.db", "sqlite", "/a b?.db"),
    ],
)
def test_a_url_names_a_storage(url: str, scheme: str, path: str) -> None:
    assert locations.parse(url).under(Path("/srv")) == Location(scheme, Path(path))


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("registry.db", "expected file:///PATH or sqlite:///PATH"),
        ("mysql://host/db", "expected file:///PATH or sqlite:///PATH"),
        ("sqlite://models/registry.db", "write sqlite:models/registry.db"),
        ("sqlite:///a.db?mode=ro", "a path alone"),
        ("sqlite:///a.db#x", "a path alone"),
        ("sqlite:", "names no file"),
        ("sqlite:///", "names no file"),
        ("file:models/", "names no file"),
        ("sqlite:///a%00b", "names no file"),
    ],
)
def test_what_names_none_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        locations.parse(url)


def migrate(root: Any, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--root", str(root.path), "--lock-timeout", "0.05", "migrate", *arguments])


async def test_there_and_back_is_the_same_file(root: Any, serve: Any) -> None:
    async with serve(root) as client:
        for version in (1, 2):
            await client.register("m", version, root.add_model("m", version), request_id=f"r{version}")
            answer = await client.activate("m", version)
    root.edit({"note": ["of a person", 1.5], **root.document(), "end": {}})
    async with serve(root) as client:
        answer = await client.activate("m", 1)
    before = root.file.read_bytes()
    moved = migrate(root, JSON, SQLITE)
    assert moved.exit_code == 0
    assert "2 versions" in moved.output
    root.file.rename(root.file.with_name("aside.json"))
    async with serve(root, storage=locations.parse(SQLITE)) as client:
        served = await client.production("m")
        assert (served.model, served.revision) == (answer.model, answer.revision)
    assert migrate(root, SQLITE, JSON).exit_code == 0
    assert root.file.read_bytes() == before


def test_a_target_that_holds_something_is_left_alone_unless_forced(example: Any) -> None:
    assert migrate(example, JSON, SQLITE).exit_code == 0
    with closing(SqliteStorage(example.database)) as storage:
        storage.transact(lambda catalog: catalog.with_rest("kept", True))
    refused = migrate(example, JSON, SQLITE)
    assert refused.exit_code == 1
    assert "--force" in refused.output
    assert example.document()["kept"] is True
    assert migrate(example, JSON, SQLITE, "--force").exit_code == 0
    assert "kept" not in example.document()


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_what_cannot_be_read_is_neither_moved_nor_overwritten(root: Any, force: tuple[str, ...]) -> None:
    root.file.write_text('{"models": [')
    other = root.file.with_name("other.json")
    other.write_text('{"models": [], "kept": 1}')
    for source, target in ((JSON, "file:models/other.json"), ("file:models/other.json", JSON)):
        failed = migrate(root, source, target, *force)
        assert failed.exit_code == 1
        assert "registry.json:1:13" in failed.output
    assert root.file.read_text() == '{"models": ['
    assert other.read_text() == '{"models": [], "kept": 1}'


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["file:models/gone.json", SQLITE], 1, "no file to read"),
        ([JSON, "file:models/../models/registry.json"], 1, "both names lead to"),
        ([JSON, "sqlite:nowhere/registry.db"], 1, "unable to open"),
        ([JSON, "registry.db"], 2, "expected file:///PATH"),
        ([JSON], 2, "Missing argument 'TO'"),
    ],
)
def test_what_cannot_be_done_is_said(example: Any, arguments: list[str], code: int, complaint: str) -> None:
    result = migrate(example, *arguments)
    assert (result.exit_code, complaint in result.output) == (code, True), result.output
    assert not example.database.exists()


def test_a_target_that_is_held_is_unavailable(example: Any) -> None:
    held, release = threading.Event(), threading.Event()

    def hold(catalog: Any) -> Any:
        held.set()
        release.wait(60)
        return catalog

    with closing(SqliteStorage(example.database)) as other:
        thread = threading.Thread(target=other.transact, args=(hold,))
        thread.start()
        try:
            assert held.wait(60)
            result = migrate(example, JSON, SQLITE)
        finally:
            release.set()
            thread.join()
    assert result.exit_code == 1
    assert "another process has held" in result.output


async def test_a_server_over_the_target_publishes_what_was_moved_there(root: Any, serve: Any) -> None:
    async with serve(root, storage=locations.parse(SQLITE)) as client:
        await client.register("m", 1, root.add_model("m", 1))
        await client.activate("m", 1)
        assert migrate(root, SQLITE, "file:models/backup.json").exit_code == 0
        await client.register("m", 2, root.add_model("m", 2))
        later = await client.activate("m", 2)
        assert migrate(root, "file:models/backup.json", SQLITE, "--force").exit_code == 0
        now = await client.activate("m", 1)
        assert not now.HasField("demoted")
        assert now.model.version == 1
        assert (await client.production("m")).revision <= later.revision
