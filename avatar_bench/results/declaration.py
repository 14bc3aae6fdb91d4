"""Declarations of blocks, read from each about.yaml without importing the block, and the readable names in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from avatar_bench.config.catalogue import LAST
from avatar_bench.config.entries import find_entries, find_renamed, find_user_folders
from avatar_bench.errors import ConfigError
from avatar_bench.files.document import Document, parse, read_yaml
from avatar_bench.i18n import _

if TYPE_CHECKING:
    from avatar_bench.results.result import Metric

_COMMON_NAMES = Path(__file__).with_name("headings.yaml")  # of what belongs to no block
_read_names = cache(read_yaml)
BlockKind = Literal["run", "comparison", "dataset", "change"]


@dataclass(frozen=True)
class TableDeclaration(Document):
    """Table of a block: its title, the columns shown in the report (all if empty), and whether it is open there.

    Of a block of one run, only tables with `shown` are in the report, and one with `sliders`: that of an operating
    curve (`decision` shows its columns), of which the reader chooses a point.
    """

    title: str = ""
    columns: tuple[str, ...] = ()
    open: bool = False
    shown: bool = False
    sliders: bool = False


@dataclass(frozen=True)
class QualityDeclaration(Document):
    """Quality that an overall score of a run can count: a metric of a block, or the mean of those matching a pattern.

    `worst` and `best` are the values that count as 0 and 1; a `worst` of None is that of random guessing. With `log`,
    equal ratios are equal steps.
    """

    block: str
    metric: str
    best: float
    worst: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Declaration(Document):
    """Everything that is known of a block besides its code, in English; `translate` what is shown.

    `metrics` are patterns of those in its table of the report, `leaderboard` and `overview` of those there; `qualities`
    are those of a run that it measures; `terms` defines metrics; `headings` are readable names of metrics and columns
    ("%s" is the rest of a name), `words` those of texts in tables; `figures` are captions by name in reading order ("*"
    matches any part of a name; {name} in a caption is that of the last one). `former_names` are those of one
    version ago, also of blocks that have become part of it.
    """

    name: str
    title: str = ""
    summary: str = ""
    question: str = ""
    kind: BlockKind = "run"
    order: int = LAST
    reading: str = ""
    metrics: tuple[str, ...] = ()
    leaderboard: tuple[str, ...] = ()
    overview: tuple[str, ...] = ()
    qualities: Mapping[str, QualityDeclaration] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    charts: Mapping[str, Any] = field(default_factory=dict)  # read by `read_charts`
    tables: Mapping[str, TableDeclaration] = field(default_factory=dict)
    headings: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    terms: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    former_names: tuple[str, ...] = ()
    is_known: bool = True

    def find_caption(self, figure: str) -> str:
        """Return the caption of a figure in the current language, its name where it has none."""
        for pattern, caption in self.figures.items():
            parts = re.fullmatch(re.escape(pattern).replace(r"\*", "(.+?)"), figure)
            if parts:
                return _(caption, **{"name": parts.groups()[-1]} if parts.groups() else {})
        return figure.replace("_", " ")

    def order_figures(self, figures: Iterable[str]) -> list[str]:
        """Sort figures in reading order, those without a caption last."""
        known = list(self.figures)

        def place(figure: str) -> int:
            return next((k for k, pattern in enumerate(known) if fnmatchcase(figure, pattern)), len(known))

        return sorted(figures, key=lambda figure: (place(figure), figure))


def declare_block(name: str) -> Declaration:
    """Return the declaration of a block, also by a former name; one without texts if no such block is known here.

    Raise ConfigError if its about.yaml has an unknown key or a value of another form.
    """
    entries = find_entries("block")
    entry = entries.get(name) or entries.get(find_renamed("block").get(name, ""))
    if entry is None:
        return Declaration(name, title=name, is_known=False)
    about = {"title": name, **entry.about, "name": name, "is_known": True}
    if isinstance(qualities := about.get("qualities"), dict):
        about["qualities"] = {key: {"block": name, **dict(stated)} for key, stated in qualities.items()}
    try:
        return parse(Declaration, about)
    except ValueError as error:
        raise ConfigError(f"{entry.yaml}: {error}.") from error


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
    for declared in (
        getattr(declare_block(block), part),
        _read_names(_COMMON_NAMES).get(part, {}),
        corruptions,
        *others,
    ):
        names = names | {name: words for name, words in declared.items() if name not in names}
    return names
