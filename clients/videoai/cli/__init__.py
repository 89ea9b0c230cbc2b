"""The command line: videoai."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from videoai.cli import files as _files  # noqa: F401 - adds push and pull
from videoai.cli.analyze import analyze
from videoai.cli.doctor import doctor
from videoai.cli.models import models
from videoai.cli.options import global_options
from videoai.cli.status import status
from videoai.environment import reject_unknown
from videoai.errors import DeadlineExceeded, NotFound, Unavailable, VideoAIError

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED, USAGE, NOT_FOUND, UNAVAILABLE, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 4, 130, 141

EPILOG = """\b
Exit codes:
    0  done
    1  a server refused or failed, or a local file could not be used
    2  the command line or the environment is wrong
    3  no such model, version or file on the server
    4  a server cannot be reached, did not answer in time or has no version running
  130  interrupted with Ctrl-C
  141  whoever read the output has gone
"""


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; click itself would say more about an interrupt, and less about a closed pipe."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # What is left in the buffer would fail again at exit, with a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(PIPE_CLOSED)
        return result


@click.group(
    cls=_Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="videoai")
@global_options
@click.pass_context
def cli(context: click.Context) -> None:
    """Manage models, analyse videos and look after the servers."""
    if context.invoked_subcommand != doctor.name:  # which tells of them among the rest
        reject_unknown(cli, ())


cli.add_command(models)
cli.add_command(analyze)
cli.add_command(status)
cli.add_command(doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit with its code: sys.argv unless `arguments` are given."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; every error is one line on standard error."""
    # Else gRPC reports on its connections among the lines for people.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        code = cli.main(list(arguments), prog_name="videoai", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.UsageError as error:
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        return _fail(error.format_message() + hint, USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), FAILED)
    except click.Abort:
        return INTERRUPTED
    except VideoAIError as error:
        return _fail(error.details, exit_code(error))
    except OSError as error:
        return _fail(str(error), FAILED)
    except UnicodeEncodeError as error:
        return _not_text(error)
    return code if isinstance(code, int) else 0


def exit_code(error: VideoAIError) -> int:
    """Return the exit code that tells of `error`."""
    match error:
        case NotFound():
            return NOT_FOUND
        case Unavailable() | DeadlineExceeded():
            return UNAVAILABLE
        case _:
            return FAILED


def _not_text(error: UnicodeEncodeError) -> int:
    """A word of the command line that is no text, or text that this terminal cannot show."""
    if error.encoding in ("utf-8", "utf8"):
        return _fail(f"expected text in UTF-8, got {error.object!r}", USAGE)
    return _fail(f"standard output takes no more than {error.encoding}: set PYTHONIOENCODING=utf-8", FAILED)


def _fail(message: str, code: int) -> int:
    click.echo(f"videoai: {' '.join(message.split())}", err=True)
    return code
