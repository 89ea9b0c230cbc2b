"""videoai-registry: keep the registry of models and tell every subscriber what is in production."""

from __future__ import annotations

from functools import partial
from typing import Any

import click
from videoai.environment import reject_unknown

from registry_server import settings
from registry_server.server import registry_server
from registry_server.service import ERROR_CODES, SERVICE
from server_kit import logs
from server_kit.app import ServeOptions, run


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="videoai")
@settings.options
def main(
    listen: tuple[str, ...], metrics: str | None, grace_seconds: float, log_level: str, log_format: str, **flags: Any
) -> None:
    """Keep the registry of models: one file that a person can read and edit, models/registry.json.

    Tells every subscriber the moment production changes, whether through a call or by an edit of the file.
    """
    reject_unknown(main, (settings.PREFIX,))
    logs.configure(log_level, log_format)
    run(
        ServeOptions(listen, metrics, grace_seconds),
        services=[SERVICE],
        error_codes=ERROR_CODES,
        setup=partial(registry_server, settings.Settings(**flags)),
    )


if __name__ == "__main__":
    main()
