"""Page of the documentation that lists the options of every command and block."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from avatar_bench.cli.help import Row, list_options
from avatar_bench.config.catalogue import PLAIN_COMMANDS, find_commands

_NOTE = "This page is made of the schema of each command and block; after a change there, run `./scripts/docs`."


def render_options() -> str:
    """Return the options of every command, then those of every block, as Markdown."""
    parts = ["# Options", f"Every option of every command with its default, as `--help` lists them. {_NOTE}"]
    for command in (name for name in find_commands() if name not in PLAIN_COMMANDS):
        sections = list_options(command)
        parts += [f"## {command}", _render_table([*sections["groups"], *sections["options"]])]
    for title, rows in (list_options("evaluate", ["block=all"]) | list_options("prepare")).items():
        name = title.partition(":")[0].removeprefix("block ")
        if title.startswith("block ") and rows:
            parts += [f"## [{name}](blocks/{name}.md)", _render_table(rows)]
    return "\n\n".join(parts) + "\n"


def _render_table(rows: Iterable[Row]) -> str:
    lines = ["| option | default | |", "|---|---|---|"]
    for option, value, note in rows:
        shown, known = (text.replace("|", "\\|") for text in (f"`{value}`" if value else "", note))
        lines.append(f"| `{option}` | {shown} | {known} |")
    return "\n".join(lines)


if __name__ == "__main__":
    page = Path(__file__).parents[1] / "docs" / "options.md"
    page.write_text(render_options(), encoding="utf-8")
