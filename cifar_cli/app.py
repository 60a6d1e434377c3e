"""The command line: registers the commands, and turns errors into messages in one place."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cifar_cli import __version__
from cifar_cli.command import Command, CommandMixin
from cifar_cli.commands import COMMANDS
from cifar_cli.errors import CifarError
from cifar_cli.options import DebugOpt, QuietOpt, VerboseOpt


class ErrorBoundary(CommandMixin, TyperGroup):
    """Turns an expected error into one sentence, its remedy and an exit status, and Ctrl-C into exit status 130."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _explained({}):
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        from cifar_cli.render import console

        flags = ctx.find_root().ensure_object(dict)
        with _explained(flags), console.following(flags):
            return super().invoke(ctx)


@contextmanager
def _explained(flags: Mapping[str, bool]) -> Iterator[None]:
    """Print an expected error and exit with its status.

    flags: with "debug" the error passes, with its traceback; with "verbose" its cause is printed.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        from cifar_cli.render import console

        console.error("interrupted", None)
        raise typer.Exit(128 + next(iter(error.args), signal.SIGINT)) from None
    except CifarError as error:
        if flags.get("debug"):
            raise
        from cifar_cli.render import console

        console.error(error.what, error.remedy)
        if flags.get("verbose") and error.__cause__ is not None:
            console.warn(f"caused by {type(error.__cause__).__name__}: {error.__cause__}")
        raise typer.Exit(error.exit_code) from None
    except OSError as error:
        # Of a path that can't even be looked at, wherever that happens: too long a name, or a folder of another user.
        if error.filename is None or flags.get("debug"):
            raise
        from cifar_cli.render import console

        unusable = CifarError(f"{error.filename} can't be read or written ({error.strerror})")
        console.error(unusable.what, "check the path, and who may use it")
        raise typer.Exit(unusable.exit_code) from None


app = typer.Typer(
    name="cifar",
    cls=ErrorBoundary,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help texts and messages are brackets
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="# Train the baseline on CIFAR-10, then score its best weights.\ncifar train --model null --name first\n"
    "cifar evaluate runs/first",
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"cifar {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Train, measure and evaluate CIFAR-10 image classifiers."""


for _name, _function in COMMANDS.items():
    app.command(_name, cls=Command, epilog=_function.epilog)(_function)
