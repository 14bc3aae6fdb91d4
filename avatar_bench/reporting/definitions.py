"""Definitions of metrics, for the report and docs/definitions.md."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from avatar_bench.i18n import language

_FILE = Path(__file__).with_suffix(".yaml")
_HEAD = """# Definitions

Definitions of the metrics by block, as shown in the report. This page is generated from
`avatar_bench/reporting/definitions.yaml`; after a change there, run `./scripts/docs`.
"""


def find_definitions(block: str) -> list[tuple[str, str]]:
    """Return the terms of a block with their definitions in the current language; none for a user's own block."""
    current = language()
    return [(entry["term"][current], entry[current]) for entry in _load_definitions().get(block, {}).values()]


def render_definitions() -> str:
    """Return all definitions as Markdown."""
    parts = [_HEAD]
    for block, entries in _load_definitions().items():
        rows = "".join(f"- **{entry['term']['en']}**: {entry['en']}\n" for entry in entries.values())
        parts.append(f"## {block}\n\n{rows}\nMore: [{block}](blocks/{block}.md).\n")
    return "\n".join(parts)


@cache
def _load_definitions() -> Mapping[str, Mapping[str, Any]]:
    """Return `term` and definition in each language, by block and metric."""
    return dict(yaml.safe_load(_FILE.read_text(encoding="utf-8")))
