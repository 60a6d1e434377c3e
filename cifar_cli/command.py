"""Turn functions into commands: option groups, messages for bad values, help pages."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand
from typer.models import OptionInfo

from cifar_cli.errors import UsageError
from cifar_cli.parsers import explained, parser_of

_WORDS = "cifar_cli.words"
_METAVARS = {int: "N", float: "X"}
_Group = TypeVar("_Group")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def option_group(panel: str) -> Callable[[type[_Group]], type[_Group]]:
    """Make a class a frozen dataclass whose fields are options, shown in this panel of the help page.

    The field's name is the flag, its type decides the parser, and the docstring under it is the help text. A
    `typer.Option` declares what differs: `Annotated[str, Option("--model", "-m", metavar="NAME")]`.
    """

    def decorate(group: type[_Group]) -> type[_Group]:
        group.panel = panel  # type: ignore[attr-defined]
        return dataclass(frozen=True, kw_only=True)(group)

    return decorate


def command(*, examples: tuple[tuple[str, str], ...]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function whose parameters are option groups into one that Typer can register.

    Every field of a group becomes an option of the command. The function gets the groups back, filled. `declared` of
    the result is the function's own signature, for another command of the same options.
    examples: what each does, in a sentence, and its command line. The help page ends with them.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        declared = inspect.signature(function, eval_str=True).parameters
        groups: dict[str, Any] = {
            name: each.annotation for name, each in declared.items() if is_dataclass(each.annotation)
        }
        parameters: list[inspect.Parameter] = []
        for name, parameter in declared.items():
            parameters += _options_of(groups[name]) if name in groups else [parameter]

        def run(**values: Any) -> None:
            for name, group in groups.items():
                values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
            function(**values)

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.declared = inspect.Signature(list(declared.values()))  # type: ignore[attr-defined]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.epilog = "\n\n".join(f"# {what}\n{line}" for what, line in examples)  # type: ignore[attr-defined]
        return run

    return decorate


def _options_of(group: Any) -> Iterator[inspect.Parameter]:
    """One parameter for each field of an option group: its own fields first, then those of its bases."""
    hints = get_type_hints(group, include_extras=True)
    owners: dict[str, type] = {}
    for base in group.__mro__:
        for name in inspect.get_annotations(base):
            owners.setdefault(name, base)
    known = {field.name: field for field in fields(group)}
    for name, owner in owners.items():
        field = known[name]
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        annotation = _option(name, hints[name], owner, group.panel)
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _option(name: str, annotation: Any, owner: type, panel: str) -> Any:
    """The annotation of an option, with what its declaration leaves out: flag, help, panel, parser and metavar."""
    kind, declared = get_args(annotation) if get_origin(annotation) is Annotated else (annotation, typer.Option())
    info = copy(declared)
    info.help = info.help or _help_texts(owner.__module__)[owner.__name__, name]
    info.rich_help_panel = info.rich_help_panel or panel
    if isinstance(info, OptionInfo):
        if info.default is ...:  # where Typer puts the first spelling
            info.default = f"--{name.replace('_', '-')}"
        if info.parser is not None and get_origin(kind) is not list:
            kind = str  # what is typed: Typer would take two words for a tuple of two
        element = _element(kind)
        if parser := info.parser or parser_of(element):
            info.parser = explained(str(info.default), parser)
        if info.metavar is None:
            closed = get_origin(element) is Literal
            info.metavar = "|".join(map(str, get_args(element))) if closed else _METAVARS.get(element)
    return Annotated[kind, info]


@cache
def _help_texts(module: str) -> dict[tuple[str, str], str]:
    """The docstrings under the fields of a module's classes, by class and field."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {
        (group.name, ast.unparse(field.target)): " ".join(ast.literal_eval(text.value).split())
        for group in tree.body
        if isinstance(group, ast.ClassDef)
        for field, text in pairwise(group.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def _element(annotation: Any) -> Any:
    """The type of one value: `int` for `int | None` and for `list[int]`."""
    if get_origin(annotation) is Literal or not get_args(annotation):
        return annotation
    (element,) = (inner for inner in get_args(annotation) if inner is not type(None))
    return _element(element)


@contextmanager
def _values_as_typed(params: Sequence[Any]) -> Iterator[None]:
    """Convert no value in the block: Typer would load pydantic for it, which takes longer than all the rest."""
    for param in params:
        param.process_value = lambda ctx, value: value
    try:
        yield
    finally:
        for param in params:
            del param.process_value


class CommandMixin:
    """Changes two things about Typer's classes: an option given twice is refused, and the help page is our own."""

    def parse_args(self, ctx: Any, args: Any) -> Any:
        """Parse the words of a command line. Raises UsageError for a single-valued option given twice."""
        ctx.meta[_WORDS] = list(args)
        if ctx.resilient_parsing:  # while a shell completes a line, nothing is refused
            with _values_as_typed(self.get_params(ctx)):  # type: ignore[attr-defined]
                return super().parse_args(ctx, args)  # type: ignore[misc]
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))  # type: ignore[attr-defined]
        for param in order:
            value = values.get(param.name)
            if value == "" or (isinstance(value, (list, tuple)) and "" in value):
                named = param.metavar if isinstance(param, TyperArgument) else _as_typed(param, args)
                raise UsageError(f"{named} is empty", remedy="give it a value, or leave it out")
            if order.count(param) > 1 and param.expose_value and not param.multiple:
                on, off = (_typed_of(spellings, args) for spellings in (param.opts, param.secondary_opts))
                if on and off:
                    raise UsageError(f"{on[0]} and {off[0]} contradict each other", remedy="pass one of them")
                raise UsageError(f"{param.opts[0]} is given {order.count(param)} times", remedy="pass it once")
        return super().parse_args(ctx, args)  # type: ignore[misc]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page. Overrides Typer's, whose five columns cut words at 80 characters."""
        from cifar_cli.render.help import help_page

        formatter.write(help_page(self, ctx))


class Command(CommandMixin, TyperCommand):
    """A command of `cifar`."""


def typed(ctx: typer.Context) -> dict[str, str]:
    """The parameters that the user passed, even with the default as the value, each as it is spelled on the line."""
    sources = {param: ctx.get_parameter_source(param.name) for param in ctx.command.params}
    passed = [param for param, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    return {param.name: _as_typed(param, ctx.meta[_WORDS]) for param in passed}


def given(ctx: typer.Context) -> dict[str, str]:
    """The parameters that the user passed or set in the environment, and the option or variable of each."""
    variables = {
        param.name: str(param.envvar)
        for param in ctx.command.params
        if getattr(ctx.get_parameter_source(param.name), "name", None) == "ENVIRONMENT"
    }
    return variables | typed(ctx)


def refuse_both(ctx: typer.Context, first: str, second: str) -> None:
    """Raise UsageError if the user passed both parameters."""
    passed = typed(ctx)
    if first in passed and second in passed:
        raise UsageError(f"{passed[first]} and {passed[second]} contradict each other", remedy="pass one of them")


def refuse_without(ctx: typer.Context, option: str, *needed: str) -> None:
    """Raise UsageError if the user passed a parameter that does nothing without one of the others."""
    passed = typed(ctx)
    if option in passed and not any(name in passed for name in needed):
        opts = {param.name: param.opts[0] for param in ctx.command.params}
        others = " or ".join(opts[name] for name in needed)
        raise UsageError(
            f"{passed[option]} has no effect without {others}", remedy=f"leave it out, or pass {opts[needed[0]]}"
        )


def refuse_beside(ctx: typer.Context, chosen: str, options: Iterable[str], why: str) -> None:
    """Raise UsageError if the user passed `chosen` and an option that has no effect then. why: what `chosen` does."""
    passed = typed(ctx)
    without = [passed[name] for name in options if name in passed]
    if chosen in passed and without:
        raise UsageError(f"{passed[chosen]} {why}, and {without[0]} has no effect", remedy="leave one of them out")


def _typed_of(spellings: Sequence[str], words: Sequence[str]) -> list[str]:
    """The spellings that occur in `words`, in their order."""
    return [name for word in words for name in spellings if word.split("=")[0] == name]


def _as_typed(param: Any, words: list[str]) -> str:
    """The spelling of an option on the command line; its first one where it can't be found."""
    spellings = [*param.opts, *param.secondary_opts]
    typed = _typed_of(spellings, words)
    short = [name for word in words for name in spellings if len(name) == 2 and word.startswith(name)]
    return str([*typed, *short, *spellings][0])
