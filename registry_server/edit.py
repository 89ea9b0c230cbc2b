"""A person edits the registry file in an editor of theirs, and what cannot be read never gets into its place.

In the manner of visudo: a copy is edited, checked as the server checks it, and put in place whole. Two people cannot
edit at once. Servers go on meanwhile, for an edit may take an hour; what they changed in that time is not overwritten.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from registry_server.document import dump
from registry_server.errors import ChangedMeanwhile, RegistryFileInvalid, StorageUnavailable
from registry_server.json_storage import JsonFileStorage

EMPTY = dump({"models": []})


def edit(storage: JsonFileStorage) -> str:
    """Open the file in $VISUAL or $EDITOR until it can be put in place, or is given up; returns what came of it.

    Raises click.Abort, click.ClickException where the editor cannot be run or fails, and RegistryError.
    """
    with _stopped_cleanly(), storage.editing(), tempfile.TemporaryDirectory(prefix="videoai-") as folder:
        copy = Path(folder, storage.files[0].name)
        before = storage.read_text()
        copy.write_bytes(EMPTY if before is None else before)
        try:
            return _until_in_place(storage, copy, before)
        except SystemExit:
            if copy.exists() and (text := copy.read_bytes()) != (EMPTY if before is None else before):
                click.echo(f"stopped; what you had saved is kept in {_kept(text)}", err=True)
            raise


def _until_in_place(storage: JsonFileStorage, copy: Path, before: bytes | None) -> str:
    while True:
        text = _edited(copy)
        if text == before:
            return "nothing was changed"
        try:
            storage.replace_text(before, text)
        except RegistryFileInvalid as error:
            place = f"line {error.line}, column {error.column}: " if error.line else ""
            click.echo(f"{place}{error.reason}", err=True)
            if not _again("Edit it again, or quit and change nothing?"):
                return "nothing was changed"
        except StorageUnavailable as error:
            click.echo(f"{error}; your text is kept in {_kept(text)}", err=True)
            if not _again("Edit it again and save it once more, or quit?"):
                return "given up"
        except ChangedMeanwhile:
            click.echo(f"the registry changed while you edited it; your text is kept in {_kept(text)}", err=True)
            if not _again("Edit the registry as it is now, or quit and change nothing?"):
                return "nothing was changed"
            before = storage.read_text()
            copy.write_bytes(EMPTY if before is None else before)
        else:
            return f"{storage.files[0]} was replaced"


@contextmanager
def _stopped_cleanly() -> Iterator[None]:
    """Leave by an exception where a signal would end the process at once, with the copy left behind."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, stop) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _edited(copy: Path) -> bytes:
    # Ctrl-C is for the editor, which shares the terminal; it may mean anything there.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        click.edit(filename=os.fspath(copy))
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        return copy.read_bytes()
    except OSError as error:
        raise click.ClickException(f"the editor left no file behind: {error.strerror}; nothing was changed") from error


def _again(question: str) -> bool:
    choice: str = click.prompt(question, type=click.Choice(["e", "q"]), default="e", err=True)
    return choice == "e"


def _kept(text: bytes) -> str:
    descriptor, name = tempfile.mkstemp(prefix="registry-", suffix=".json")
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    return name
