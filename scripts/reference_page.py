"""Page of the documentation that lists the functions and classes of the Python API, with their docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import avatar_bench
from avatar_bench import errors
from avatar_bench.data.dataset import Dataset
from avatar_bench.inference.prediction_table import PredictionTable
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.result import Metric, Result
from avatar_bench.runs.run import Run

_DOCS = Path(__file__).parents[1] / "docs"
_COMMANDS = {"load": "", "import_detector": "import"}  # of functions that are not named after their command
_CLASSES = (Run, Result, Metric, Predictions, PredictionTable, Dataset)
_NOTE = (
    "[Python](python.md) shows all of it by example. "
    "This page is made of the docstrings; after a change there, run `./scripts/docs`."
)


class _Annotation(str):
    """Annotation that a signature shows without quotes."""

    def __repr__(self) -> str:
        return str(self)


def render_reference() -> str:
    """Return the functions, classes and errors of the Python API as Markdown."""
    parts = ["# Python reference", _format_docstring(avatar_bench), _NOTE, "## Functions"]
    parts += [_render_function(name) for name in avatar_bench.__all__ if not name.startswith("_")]
    parts += [_render_class(each) for each in _CLASSES]
    parts += ["## Errors", _format_docstring(errors), _render_errors()]
    return "\n\n".join(parts) + "\n"


def _render_function(name: str) -> str:
    command = _COMMANDS.get(name, name)
    folder = "commands" if (_DOCS / "commands" / f"{command}.md").is_file() else "plugins"
    links = f"\n\nCommand: [{command}]({folder}/{command}.md); its options: [{command}](options.md#{command})."
    return _render_callable(getattr(avatar_bench, name), name) + (links if command else "")


def _render_class(each: type) -> str:
    members = {name: value for name, value in vars(each).items() if not name.startswith("_")}
    stated = fields(each) if is_dataclass(each) else ()
    lines = [f"    {one.name}: {one.type}" for one in stated if not one.name.startswith("_")]
    parts = [f"## {each.__name__}", f"`{each.__module__}.{each.__name__}`"]
    parts += ["```python\n" + "\n".join([f"class {each.__name__}:", *lines]) + "\n```"] if lines else []
    parts.append(_format_docstring(each))
    if rows := list(_list_properties(members)):
        parts.append(_render_table("attribute", "type", rows))
    for name, value in members.items():
        if inspect.isfunction(value) or isinstance(value, classmethod):
            parts.append(_render_callable(getattr(each, name), f"{each.__name__}.{name}"))
    return "\n\n".join(parts)


def _list_properties(members: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the name, type and description of each property."""
    for name, value in members.items():
        if isinstance(value, property | cached_property):
            read: Any = value.fget if isinstance(value, property) else value.func
            text = " ".join(_format_docstring(read).removeprefix("Return ").split())
            yield name, inspect.signature(read).return_annotation, text


def _render_errors() -> str:
    kinds = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.AvatarBenchError)
    ]
    rows = [(each.__name__, str(each.exit_code), " ".join(_format_docstring(each).split())) for each in kinds]
    return _render_table("class", "exit code", rows)


def _render_callable(function: Any, name: str) -> str:
    signature = inspect.signature(function)
    shown = [
        parameter.replace(annotation=_Annotation(parameter.annotation))
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    bare = signature.replace(parameters=shown, return_annotation=_Annotation(signature.return_annotation))
    unbroken = re.sub("(?<!,) ", "\N{NO-BREAK SPACE}", f"{name}{bare}")  # lines break after a comma
    text = textwrap.fill(unbroken, 88, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    return f"### {name}\n\n```python\n{text}\n```\n\n{_format_docstring(function)}"


def _format_docstring(documented: Any) -> str:
    """Return a docstring as Markdown, in which only backquotes are markup."""
    parts = re.split(r"(`[^`]*`)", inspect.getdoc(documented) or "")
    return "".join(
        part if part[:1] == "`" else re.sub(r"([*_\[{])", r"\\\1", part).replace("<", "&lt;") for part in parts
    )


def _render_table(first: str, second: str, rows: Iterable[tuple[str, str, str]]) -> str:
    lines = [f"| {first} | {second} | |", "|---|---|---|"]
    for row in rows:
        name, kind, text = (cell.replace("|", "\\|") for cell in row)
        lines.append(f"| `{name}` | `{kind}` | {text} |")
    return "\n".join(lines)


if __name__ == "__main__":
    page = _DOCS / "python_reference.md"
    page.write_text(render_reference(), encoding="utf-8")
