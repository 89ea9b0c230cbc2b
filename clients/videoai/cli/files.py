"""videoai models push and pull: model files through the registry."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from videoai.cli import show
from videoai.cli.models import models, pairs
from videoai.cli.options import VERSION, VERSION_OR_NONE, Settings, global_options, pass_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@models.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--name", required=True, help="Name of the model.")
@click.option("--version", type=VERSION_OR_NONE, default=0, help="Version; 0, the default, takes the next.")
@click.option("--description", default="", help="Free text.")
@click.option("--metric", "metrics", multiple=True, metavar="KEY=NUMBER", callback=pairs, help="Repeatable.")
@click.option("--attribute", "attributes", multiple=True, metavar="KEY=JSON", callback=pairs, help="Repeatable.")
@click.option("--activate", is_flag=True, help="Put it into production, too.")
@global_options
@pass_settings
def push(settings: Settings, /, file: str, name: str, *, activate: bool, **given: Any) -> None:
    """Upload FILE, an ONNX file of this machine, as a version of a model."""
    with settings.registry_client() as registry:
        with _progress(name) as advance:
            model = registry.upload(file, name, progress=advance, **given)
        if activate:
            show.change(settings, registry.activate(name, model.version))
        else:
            show.model(settings, model, f"uploaded {name} version {model.version}")


@models.command()
@click.argument("name")
@click.argument("version", type=VERSION)
@click.argument("file", type=click.Path(dir_okay=False))
@global_options
@pass_settings
def pull(settings: Settings, name: str, version: int, file: str) -> None:
    """Download VERSION of NAME to FILE, which appears whole or not at all."""
    with settings.registry_client() as registry, _progress(name) as advance:
        model = registry.download(name, version, file, progress=advance)
    show.model(settings, model, f"downloaded {name} version {version}")


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show bytes done of all on standard error, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
