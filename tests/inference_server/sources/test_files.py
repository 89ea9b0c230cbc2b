"""Files under allowed folders: what may be opened, and what nobody learns about the rest."""

import os
import socket

import pytest

from inference_server.errors import SourceNotAllowed, SourceNotFound, SourceRefused
from inference_server.sources.files import AllowedFolders, FileSource


@pytest.fixture
def tree(tmp_path):
    for path in ("allowed/deep/a.mp4", "also/b.mp4", "secret/c.mp4"):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
    return tmp_path


def read(folders, path):
    fd = folders.open(str(path))
    try:
        return os.read(fd, 100).decode()
    finally:
        os.close(fd)


def test_files_in_and_below_the_folders_are_opened(tree):
    folders = AllowedFolders([tree / "allowed", tree / "also"])
    assert read(folders, tree / "allowed/deep/a.mp4") == "allowed/deep/a.mp4"
    assert read(folders, tree / "also/b.mp4") == "also/b.mp4"


def test_nothing_is_allowed_by_default(tree):
    with pytest.raises(SourceNotAllowed):
        AllowedFolders([]).open(str(tree / "allowed/deep/a.mp4"))


@pytest.mark.parametrize("path", ["secret/c.mp4", "secret/absent.mp4", "allowedx/a.mp4", "", "secret"])
def test_what_lies_outside_is_denied_in_the_same_words_whether_it_exists_or_not(tree, path):
    folders = AllowedFolders([tree / "allowed"])
    messages = set()
    for asked in (tree / path, tree / "nothing/here.mp4"):
        with pytest.raises(SourceNotAllowed) as raised:
            folders.open(str(asked))
        messages.add(str(raised.value))
    assert len(messages) == 1


def test_links_count_as_what_they_lead_to(tree):
    (tree / "allowed/in.mp4").symlink_to("deep/a.mp4")
    (tree / "allowed/across.mp4").symlink_to(tree / "also/b.mp4")
    (tree / "allowed/out.mp4").symlink_to(tree / "secret/c.mp4")
    (tree / "allowed/dangling.mp4").symlink_to(tree / "secret/absent.mp4")
    (tree / "allowed/folder").symlink_to(tree / "secret")
    (tree / "allowed/circle").symlink_to("circle")
    folders = AllowedFolders([tree / "allowed", tree / "also"])
    assert read(folders, tree / "allowed/in.mp4") == "allowed/deep/a.mp4"
    assert read(folders, tree / "allowed/across.mp4") == "also/b.mp4"
    for outside in ("out.mp4", "dangling.mp4", "folder/c.mp4", "folder/absent.mp4"):
        with pytest.raises(SourceNotAllowed):
            folders.open(str(tree / "allowed" / outside))
    with pytest.raises(SourceNotFound):
        folders.open(str(tree / "allowed/circle"))


def test_a_folder_given_as_a_link_is_allowed_by_both_names(tree):
    (tree / "name").symlink_to(tree / "allowed")
    folders = AllowedFolders([tree / "name"])
    assert read(folders, tree / "name/deep/a.mp4") == read(folders, tree / "allowed/deep/a.mp4")


def test_what_is_absent_inside_is_not_found(tree):
    folders = AllowedFolders([tree / "allowed"])
    for path in ("absent.mp4", "deep/absent/x.mp4", "deep/a.mp4/x"):
        with pytest.raises(SourceNotFound, match=path):
            folders.open(str(tree / "allowed" / path))


def test_only_regular_files_are_opened(tree):
    os.mkfifo(tree / "allowed/pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "allowed/socket"))
        (tree / "allowed/device").symlink_to("/dev/zero")
        folders = AllowedFolders([tree / "allowed", tree / "also", *map(type(tree), ("/dev",))])
        for irregular in ("pipe", "socket", "device", "deep", ""):
            with pytest.raises(SourceRefused, match="regular file"):
                folders.open(str(tree / "allowed" / irregular))


def test_a_link_put_in_place_after_the_look_is_not_followed(tree, monkeypatch):
    folders = AllowedFolders([tree / "allowed"])
    really_open = os.open

    def swap_then_open(path, *args, **kwargs):
        if path == "a.mp4":
            (tree / "allowed/deep/a.mp4").unlink()
            (tree / "allowed/deep/a.mp4").symlink_to(tree / "secret/c.mp4")
        return really_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", swap_then_open)
    with pytest.raises(SourceNotFound):
        folders.open(str(tree / "allowed/deep/a.mp4"))


async def test_the_descriptor_lives_as_long_as_the_connection(tree):
    source = FileSource(AllowedFolders([tree / "also"]), str(tree / "also/b.mp4"))
    async with source.connect() as connection:
        assert os.fstat(connection.file.fd).st_size == connection.file.size == len("also/b.mp4")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(connection.file.fd)
