"""Readable names of the columns, metrics, strategies, tables and intervals of results."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

from avatar_bench.config.entries import get_title
from avatar_bench.i18n import language
from avatar_bench.reporting.report_text import BLOCKS
from avatar_bench.results.result import Metric

_FILE = Path(__file__).with_suffix(".yaml")


def find_heading(name: str) -> str:
    """Return the readable name of a column or metric ("recall, real" for recall/real); an unknown name unchanged."""
    known = _load_headings()["columns"]
    block, _, metric = name.partition("/")
    if metric and block in BLOCKS:  # a metric of a block, such as blind_test/accuracy
        return find_heading(metric)
    if name in known:
        return known[name][language()]
    for pattern, words in known.items():
        start = pattern.removesuffix("%s")
        if start == pattern or not name.startswith(start):
            continue
        rest = name.removeprefix(start)
        if words["en"].startswith("%s"):  # the rest is a metric
            return words[language()] % find_heading(rest)
        return words[language()] % ", ".join(map(find_strategy_name, rest.split("/")))
    return get_title("corruption", name)


def find_strategy_name(name: str) -> str:
    """Return the readable name of a way to combine models, or of a corruption; an unknown name unchanged."""
    return _load_headings()["strategies"].get(name, {}).get(language()) or get_title("corruption", name)


def find_table_title(block: str, table: str) -> str | None:
    """Return the title of a table of a block, None where it has none of its own."""
    return _load_headings()["tables"].get(f"{block}/{table}", {}).get(language())


def find_interval_name(metric: Metric) -> str:
    """Return the readable name of a metric's interval, "" without one; an unknown name unchanged."""
    name = metric.interval or ""
    return _load_headings()["intervals"].get(name, {}).get(language(), name)


@cache
def _load_headings() -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    """Return readable names of columns, strategies, tables and intervals, by name and language."""
    return dict(yaml.safe_load(_FILE.read_text(encoding="utf-8")))
