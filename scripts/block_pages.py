"""Pages of the documentation that are made of the declarations of the blocks."""

from __future__ import annotations

import re
from pathlib import Path

from avatar_bench.config.catalogue import list_blocks
from avatar_bench.results.declaration import declare_block

_NOTE = "This page is made of the `about.yaml` of each block; after a change there, run `./scripts/docs`.\n"
_KINDS = {"run": "Blocks of one run", "comparison": "Comparisons of runs", "dataset": "Blocks of a data set"}


def render_definitions() -> str:
    """Return the definitions of the metrics of all blocks as Markdown."""
    parts = [f"# Definitions\n\nDefinitions of the metrics by block, as shown in the report. {_NOTE}"]
    for block in (declare_block(name) for kind in _KINDS for name in list_blocks([kind])):
        rows = "".join(f"- **{term}**: {meaning}\n" for term, meaning in block.terms.items())
        if rows:
            parts.append(f"## {block.name}\n\n{rows}\nMore: [{block.name}](blocks/{block.name}.md).\n")
    return "\n".join(parts)


def render_index() -> str:
    """Return the list of all blocks as Markdown."""
    parts = [f"# Blocks\n\n{_NOTE}"]
    for kind, title in _KINDS.items():
        blocks = [declare_block(name) for name in list_blocks([kind])]
        rows = "".join(
            f"| [{block.name}]({block.name}.md) | {block.question} | {block.summary} |\n" for block in blocks
        )
        parts.append(f"## {title}\n\n| block | question | what it computes |\n|---|---|---|\n{rows}")
    return "\n".join(parts)


def write_navigation(config: str) -> str:
    """Return the text of zensical.toml with the blocks in its navigation, between the lines that mark them."""
    lines = ['    { "All" = "blocks/index.md" },']
    for kind in _KINDS:
        lines += [f'    {{ "{name}" = "blocks/{name}.md" }},' for name in list_blocks([kind])]
    start, end = re.escape('{ "Blocks" = [\n'), re.escape("\n  ] },")
    return re.sub(f"(?<={start}).*?(?={end})", "\n".join(lines), config, count=1, flags=re.DOTALL)


def write_pages(root: Path) -> None:
    """Write the pages and the navigation into a checkout."""
    (root / "docs" / "definitions.md").write_text(render_definitions(), encoding="utf-8")
    (root / "docs" / "blocks" / "index.md").write_text(render_index(), encoding="utf-8")
    config = root / "zensical.toml"
    config.write_text(write_navigation(config.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(__file__).parents[1])
