"""What the commands print: proto3 JSON for programs, tables for people."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

import click
from google.protobuf.json_format import MessageToDict
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

NONE = "-"

# By the last word of the enum's value.
STYLES = {
    "production": "bold green",
    "applied": "green",
    "serving": "green",
    "loading": "yellow",
    "received": "yellow",
    "staging": "cyan",
    "archived": "dim",
    "rejected": "bold red",
    "not serving": "bold red",
    "degraded": "bold yellow",
    "unreachable": "bold red",
    "ok": "green",
    "warning": "bold yellow",
    "failed": "bold red",
    "not installed": "dim",
}


def to_dict(message: Message) -> dict[str, Any]:
    """Return proto3 JSON with the field names of the .proto; fields at their default are there too."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def print_json(value: Message | dict[str, Any]) -> None:
    """Print one JSON value on standard output."""
    click.echo(_json(value if isinstance(value, dict) else to_dict(value), indent=2))


def one_line(message: Message) -> str:
    """Return one JSON value on a line of its own."""
    return _json(to_dict(message)) + "\n"


def _json(value: dict[str, Any], indent: int | None = None) -> str:
    """Write readable JSON; of the control characters JSON itself escapes only those below a space."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return re.sub("[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text)


def print_table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under headings. On a terminal as wide as that is; elsewhere nothing is wrapped or cut."""
    console().print(table(title, columns, rows))


def table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return rows under headings."""
    heading = None if title is None else Text(title, style="bold")
    result = Table(title=heading, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*(_cell(value) for value in row))
    return result


def print_pairs(pairs: Iterable[tuple[str, object]], *, to_stderr: bool = False) -> None:
    """Print names and values, one pair a line."""
    grid = Table.grid(padding=(0, 2))
    for name, value in pairs:
        grid.add_row(Text(name, style="dim"), _cell(value))
    console(to_stderr=to_stderr).print(grid)


def console(*, to_stderr: bool = False) -> Console:
    """Return where to print; what is not a terminal is as wide as it takes."""
    stream = sys.stderr if to_stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 10_000, highlight=False)


def version(number: int) -> str:
    """Write a version; 0 stands for none."""
    return str(number) if number else NONE


def moment(timestamp: Timestamp) -> str:
    """Write a time in UTC; unset for none."""
    return timestamp.ToDatetime().strftime("%Y-%m-%d %H:%M:%SZ") if timestamp.seconds else NONE


def size(size_bytes: int) -> str:
    """Write a size in the unit that fits."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def word(enum_name: str, prefix: str) -> str:
    """Write an enum's value as people do: MODEL_STATUS_STAGING is "staging"."""
    return enum_name.removeprefix(prefix).lower().replace("_", " ")


def plain(text: object) -> str:
    """Write text that moves no cursor: what comes from files and other people may hold any characters."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in str(text))


def _cell(value: object) -> Text:
    text = plain(value) if value not in ("", None) else NONE
    return Text(text, style=STYLES.get(text, ""))
