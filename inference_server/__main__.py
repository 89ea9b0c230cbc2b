"""videoai-inference: serve what the registry has in production."""

from __future__ import annotations

from functools import partial
from typing import Any

import click
from videoai.environment import reject_unknown

from inference_server import settings
from inference_server.server import inference_server
from inference_server.service import ERROR_CODES, SERVICE
from server_kit import logs
from server_kit.app import ServeOptions, run


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="videoai")
@settings.options
def main(
    listen: tuple[str, ...], metrics: str | None, grace_seconds: float, log_level: str, log_format: str, **flags: Any
) -> None:
    """Serve the models that the registry has in production: video in, boxes out.

    Follows the registry and swaps to every version it activates without failing a request.
    """
    reject_unknown(main, (settings.PREFIX,))
    logs.configure(log_level, log_format)
    run(
        ServeOptions(listen, metrics, grace_seconds),
        services=[SERVICE],
        error_codes=ERROR_CODES,
        setup=partial(inference_server, settings.settings(grace_seconds=grace_seconds, **flags)),
    )


if __name__ == "__main__":
    main()
