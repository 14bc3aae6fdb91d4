"""Readable names of the columns, metrics, words and intervals of results, in the current language."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from avatar_bench.config.entries import find_entries, find_user_folders
from avatar_bench.files.yaml_io import read_yaml
from avatar_bench.i18n import _
from avatar_bench.results.declaration import declare_block

if TYPE_CHECKING:
    from avatar_bench.results.result import Metric

_FILE = Path(__file__).with_suffix(".yaml")
_read_names = cache(read_yaml)


def find_heading(name: str, block: str = "") -> str:
    """Return the readable name of a column or metric ("recall, real" for recall/real); an unknown name unchanged.

    Names of `block` come first, then those of all blocks, of corruptions, and of other blocks.
    """
    known = _load_names("headings", block, tuple(find_user_folders()))
    if name in known:
        return _(known[name])
    first, _slash, metric = name.partition("/")
    if metric and first in find_entries("block"):  # a metric of a block, such as blind_test/accuracy
        return find_heading(metric, first)
    for pattern, words in known.items():
        start = pattern.removesuffix("%s")
        if start != pattern and name.startswith(start):
            rest = name.removeprefix(start)
            if words.startswith("%s"):  # the rest is a metric
                return _(words) % find_heading(rest, block)
            return _(words) % ", ".join(find_word(part, block) for part in rest.split("/"))
    return name


def find_word(text: str, block: str = "") -> str:
    """Return the readable form of a text in a table, such as a strategy or corruption; an unknown text unchanged."""
    known = _load_names("words", block, tuple(find_user_folders()))
    return _(known[text]) if text in known else text


def find_interval_name(metric: Metric) -> str:
    """Return the readable name of a metric's interval, "" without one; an unknown name unchanged."""
    return find_word(metric.interval) if metric.interval else ""


@cache
def _load_names(part: str, block: str, folders: tuple[Path, ...]) -> Mapping[str, str]:
    """Return the English names declared by a block, the common ones, those of corruptions, and of the other blocks."""
    corruptions = {name: str(entry.about.get("title", name)) for name, entry in find_entries("corruption").items()}
    others = (getattr(declare_block(name), part) for name in find_entries("block"))
    names: dict[str, str] = {}
    for declared in (getattr(declare_block(block), part), _read_names(_FILE).get(part, {}), corruptions, *others):
        names = names | {name: words for name, words in declared.items() if name not in names}
    return names
