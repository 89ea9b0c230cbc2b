"""A file is what it holds, whatever was known of it before."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry_server import files
from registry_server.files import Files

CONTENT = bytes(range(64))


@pytest.mark.parametrize(
    "known",
    [b"", CONTENT[:1], CONTENT[:16], CONTENT[:20], CONTENT + b"x", CONTENT[:-1] + b"x", b"x" + CONTENT[1:], b"x" * 999],
)
def test_what_is_read_is_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bytes) -> None:
    monkeypatch.setattr(files, "PIECE", 16)
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    assert Files().read(file) == CONTENT
    assert Files().read(file, known) == CONTENT
    file.write_bytes(b"")
    assert Files().read(file, known) == b""


def test_what_is_known_is_not_held_twice(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    assert Files().read(file, CONTENT) is CONTENT
    with pytest.raises(FileNotFoundError):
        Files().read(tmp_path / "none", CONTENT)
