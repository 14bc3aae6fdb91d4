"""Headings: what the report calls the columns, tables and intervals of results, which have names of their own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

from avatar_bench.i18n import language
from avatar_bench.reporting.captions import find_caption
from avatar_bench.results.result import Metric

_FILE = Path(__file__).with_suffix(".yaml")


def find_heading(name: str) -> str:
    """Return the words for a column or metric; of recall/real those for recall, and real. An unknown name stays."""
    known = _load_headings()["columns"]
    if name in known:
        return known[name][language()]
    for pattern, words in known.items():
        start = pattern.removesuffix("%s")
        if start == pattern or not name.startswith(start):
            continue
        rest = name.removeprefix(start)
        return words[language()] % (find_heading(rest) if words["en"].startswith("%s") else rest.replace("/", ", "))
    return name


def find_table_title(block: str, table: str) -> str:
    """Return what a table of a block holds, which is what the figure of its name shows where only that is known."""
    words = _load_headings()["tables"].get(f"{block}/{table}")
    return words[language()] if words else find_caption(block, table)


def find_interval_name(metric: Metric) -> str:
    """Return how the interval of a metric was made, nothing where it has none; what is not known here stays."""
    name = metric.interval or ""
    return _load_headings()["intervals"].get(name, {}).get(language(), name)


@cache
def _load_headings() -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    """Return the words for columns, tables and intervals by name and language."""
    return dict(yaml.safe_load(_FILE.read_text(encoding="utf-8")))
