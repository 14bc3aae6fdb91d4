"""The definitions of metrics: what the report says they mean, and docs/definitions.md with it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from avatar_bench.i18n import language

_FILE = Path(__file__).with_suffix(".yaml")
_HEAD = """# Definitions

What the metrics mean, block by block, word for word as the report says it. This page is made of
`avatar_bench/reporting/definitions.yaml`; after a change there: `./scripts/docs`.
"""


def find_definitions(block: str) -> list[tuple[str, str]]:
    """Return each term of a block with its meaning, in the language that is spoken; nothing of a user's own block."""
    spoken = language()
    return [(entry["term"][spoken], entry[spoken]) for entry in _load_definitions().get(block, {}).values()]


def render_definitions() -> str:
    """Return the page of all definitions as Markdown."""
    parts = [_HEAD]
    for block, entries in _load_definitions().items():
        rows = "".join(f"- **{entry['term']['en']}**: {entry['en']}\n" for entry in entries.values())
        parts.append(f"## {block}\n\n{rows}\nMore: [{block}](blocks/{block}.md).\n")
    return "\n".join(parts)


@cache
def _load_definitions() -> Mapping[str, Mapping[str, Any]]:
    """Return by block and metric: `term` and meaning in each language."""
    return dict(yaml.safe_load(_FILE.read_text(encoding="utf-8")))
