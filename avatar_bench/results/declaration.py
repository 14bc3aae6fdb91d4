"""Declarations of blocks: what each about.yaml says of the results of its block, read without importing the block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from avatar_bench.config.catalogue import LAST
from avatar_bench.config.entries import find_entries, find_renamed
from avatar_bench.errors import ConfigError
from avatar_bench.i18n import _

_FORMS = {str: "a text", int: "a whole number", list: "a list", dict: "a mapping"}
BLOCK_KINDS = ("run", "comparison", "dataset", "change")


@dataclass(frozen=True)
class TableDeclaration:
    """Table of a block: its title, the columns shown in the report (all if empty), and whether it is open there.

    Of a block of one run, only tables with `shown` are in the report.
    """

    title: str = ""
    columns: tuple[str, ...] = ()
    open: bool = False
    shown: bool = False


@dataclass(frozen=True)
class QualityDeclaration:
    """Quality that an overall score of a run can count: a metric of a block, or the mean of those matching a pattern.

    `worst` and `best` are the values that count as 0 and 1; a `worst` of None is that of random guessing. With `log`,
    equal ratios are equal steps.
    """

    block: str
    metric: str
    best: float
    worst: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        for end in (self.best, self.worst):
            if not isinstance(end, int | float | None):
                raise TypeError(f"{end!r} is not a number")


@dataclass(frozen=True)
class Declaration:
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
    kind: str = "run"
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
    reasons: Mapping[str, Any] = field(default_factory=dict)
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
    found = find_entries("block")
    entry = found.get(name) or found.get(find_renamed("block").get(name, ""))
    if entry is None:
        return Declaration(name, title=name, is_known=False)
    about = {"title": name, **entry.about}
    known = {each.name: each for each in fields(Declaration)}
    for key, value in about.items():
        if key not in known or key in ("name", "is_known"):
            raise ConfigError(f"{entry.yaml}: {key} is not known.", f"Expected some of {', '.join(list(known)[1:-1])}.")
        default = known[key].default
        expected = type(default) if isinstance(default, str | int) else list if default == () else dict
        if not isinstance(value, expected):
            raise ConfigError(f"{entry.yaml}: {key} is not {_FORMS[expected]}: {value!r}.")
    if about.get("kind", "run") not in BLOCK_KINDS:
        raise ConfigError(f"{entry.yaml}: kind={about['kind']}: expected one of {', '.join(BLOCK_KINDS)}.")
    parts: dict[str, Any] = {}
    for key, build in (("tables", TableDeclaration), ("qualities", partial(QualityDeclaration, name))):
        try:
            parts[key] = {each: build(**_make_tuples(stated)) for each, stated in about.get(key, {}).items()}
        except TypeError as error:  # another key, or a value of another form
            raise ConfigError(f"{entry.yaml}: {key}: {error}.") from error
    return Declaration(name, **_make_tuples(about) | parts)


def _make_tuples(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise TypeError(f"{values!r} is not a mapping")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
