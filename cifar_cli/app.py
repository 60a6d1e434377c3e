"""The command line: registers the commands, and is the one place where errors become messages."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cifar_cli import __version__
from cifar_cli.errors import CifarError, Interrupted
from cifar_cli.options import DebugOpt


class ErrorBoundary(TyperGroup):
    """Turns an expected failure into one sentence, its remedy and exit status; Ctrl-C into 130."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        from cifar_cli.render import console

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            console.error("interrupted", None)
            raise typer.Exit(Interrupted.exit_code) from None
        except CifarError as error:
            if (ctx.find_root().obj or {}).get("debug"):
                raise
            console.error(error.what, error.remedy)
            raise typer.Exit(error.exit_code) from None


app = typer.Typer(
    name="cifar",
    cls=ErrorBoundary,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"cifar {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: DebugOpt = False,
) -> None:
    """Train, measure, predict and explain CIFAR-10 image classifiers."""


def _register() -> None:
    from cifar_cli.commands import COMMANDS

    for name, function in COMMANDS.items():
        app.command(name)(function)


_register()


def main() -> None:
    """Entry point of the console script `cifar`."""
    app()
