"""What a chart that an about.yaml declares draws of a result: its rows with their names, values and colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cached_property, partial
from textwrap import fill
from typing import Any, Literal

import pandas as pd

from avatar_bench.config.entries import find_entry
from avatar_bench.errors import ConfigError, suggest_names
from avatar_bench.files.document import Document, parse
from avatar_bench.i18n import _, get_title
from avatar_bench.metrics import plots
from avatar_bench.results.declaration import declare_block, find_heading, find_word
from avatar_bench.results.result import Result

Unit = Literal["%", "points", ""]  # of proportions, of differences of proportions, of other numbers
_METRICS = "metrics"  # the table of a chart that is drawn from the metrics of a result
_CLASSES = ("class", "target", "column")  # columns of classes, whose order and colours are those of the result
# columns of names that are not translated
_NAMES = (
    *_CLASSES,
    *("run", "a", "b", "source", "recipe", "slice", "of", "label", "letters", "set", "prediction", "path"),
)
_MOST_PANELS = 8
_LONGEST_NAME = 40  # characters of a row's name in one line
_MODEL_LENGTH = 34  # characters of a model's name


@dataclass(frozen=True)
class Chart(Document):
    """Declared chart. Columns have the labels of their axes, by default their headings; "*" in one stands for several.

    A label with (%) or (points) makes its values proportions or differences of such. The ends of intervals are the
    columns _low and _high of a value, else low and high; what guessing reaches is its _floor, else floor.
    """

    chart: Literal["dots", "bars", "lines", "histograms", "cells", "crosses", "images"]
    table: str  # of the result, or "metrics"; by default that of the name of the figure
    x: Mapping[str, str] = field(default_factory=dict)
    y: Mapping[str, str] = field(default_factory=dict)
    value: Mapping[str, str] = field(default_factory=dict)  # of cells
    # patterns of the rows to draw, in their order; "!x" is all but x
    where: Mapping[str, Any] = field(default_factory=dict)
    sort: tuple[str, ...] = ()  # columns, "-" before those that decrease
    least: int = 1  # rows from which the chart is drawn
    most: int = 0  # rows that are drawn, the first; 0: all
    count: str = ""  # column of the numbers of images
    hue: str = ""  # column that colours
    panels: str = ""  # column that divides the rows
    # patterns of marks that are not hollow, and of bars and cells that are not pale, the latter with a star
    filled: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)  # columns beside values, "table.column" of another table
    lines: Mapping[str, str] = field(default_factory=dict)  # labels of numbers, "guessing", metrics or provenance
    log: tuple[str, ...] = ()  # columns with logarithmic axes
    label: str = ""  # of several values together
    share: str = ""  # "row" or "column": of which cells are proportions
    images: str = ""  # array of small images, one a row
    text: tuple[str, ...] = ()  # lines above an image, with columns in braces


def read_charts(block: str) -> dict[str, Chart]:
    """Return the charts that a block declares; raise ConfigError that names the file, the figure and the key."""
    charts = {}
    for figure, stated in declare_block(block).charts.items():
        try:
            columns = {key: _label_columns(stated[key]) for key in ("x", "y", "value") if key in stated}
            charts[figure] = parse(Chart, {"table": figure, **stated, **columns})
        except (ValueError, TypeError) as error:  # also of a chart that is no mapping
            known = ", ".join(member.name for member in fields(Chart))
            reason = f"{find_entry('block', block).yaml}: charts.{figure}.{error}."
            raise ConfigError(reason, f"Expected some of {known}.") from error
    return charts


def _label_columns(stated: Any) -> Any:
    names = [stated] if isinstance(stated, str) else stated
    return dict.fromkeys(names, "") if isinstance(names, list) else names


class RunStyles:
    """Colours and markers of runs, by label, and of models, by name: one style per recipe.

    `table` has the columns of `tabulate_runs`, in the order of the runs, also as read from a saved Result.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.labels = table["run"].astype(str).tolist()
        recipes = table["recipe"].astype(str).tolist()
        numbers = {recipe: number for number, recipe in enumerate(dict.fromkeys(recipes))}
        only = dict(zip(recipes, self.labels, strict=True))
        self.models = [only[recipe] if recipes.count(recipe) == 1 else recipe for recipe in numbers]
        self._index = {name: index for index, name in enumerate(self.models)}
        self._index |= {label: numbers[recipe] for label, recipe in zip(self.labels, recipes, strict=True)}
        self._made_of_others = set(table.loc[table["kind"] != "run", "run"].astype(str))
        self._short = dict(zip(self._index, plots.shorten_names(self._index, _MODEL_LENGTH), strict=True))

    def of(self, name: str) -> dict[str, Any]:
        """Return the colour and the marker of a run or model; ensembles have a plus."""
        index = self._index[name]
        return {
            "color": plots.get_colour(index),
            "marker": "P" if name in self._made_of_others else plots.get_marker(index),
        }

    def word(self, name: str) -> str:
        """Return the display name of a run or model; ensembles are marked as such."""
        if name in self._made_of_others:
            return _("{strategy} (ensemble)", strategy=find_word(name))
        return self._short[name]


@dataclass(frozen=True)
class Panel:
    """Part of a chart: its title, and its rows with the label and unit of their values."""

    title: str
    label: str
    unit: Unit
    table: pd.DataFrame

    @property
    def marks(self) -> list[dict[str, Any]]:
        """Return the rows of the panel."""
        return [{str(column): value for column, value in row.items()} for row in self.table.to_dict("records")]


class ChartData:
    """Rows that a chart draws of a result: its table, with each value in a row of its own.

    `table` has, besides the columns of the result's, `value`, `low`, `high`, `floor`, `column` (that of the value),
    `label`, `row` (the values that name its row), `colour` (what its colour stands for) and `is_filled`. It is empty if
    the result has fewer rows than the chart needs, or no value in them.
    """

    def __init__(self, name: str, spec: Chart, result: Result) -> None:
        self.name, self.spec, self.result = name, spec, result
        self.words = declare_block(result.block).words
        self.other = next(iter({"cells": spec.x, "lines": spec.x, "crosses": spec.y}.get(spec.chart, ())), "")
        self.row_columns = list(spec.y) if spec.chart in ("dots", "bars", "cells") else []
        named = [column for column in self.row_columns if column in (*_CLASSES, "run")]
        self.hue = spec.hue or next(iter(named), "")
        table = _tabulate_metrics(result) if spec.table == _METRICS else result.tables.get(spec.table, pd.DataFrame())
        if spec.images:
            table = table.iloc[result.arrays.get(spec.images, {}).get("rows", [])].reset_index(drop=True)
        self.table = self._select_rows(self._stack_values(self._join_marks(table))) if len(table) else table

    def _join_marks(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the table with the marked columns of other tables, by the names that both have."""
        for mark in self.spec.marks.values():
            name, __, column = mark.partition(".")
            if column and (other := self.result.tables.get(name)) is not None:
                keys = [key for key in (*self.row_columns, self.hue) if key in other]
                table = table.merge(other[[*keys, column]].rename(columns={column: mark}), "left", keys)
        return table

    def _stack_values(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of each column of values below each other."""
        key = {"lines": "y", "cells": "value"}.get(self.spec.chart, "x")
        stated, stacked = getattr(self.spec, key), []
        taken = (*self.row_columns, self.other, self.spec.count, self.spec.hue)
        for pattern, label in stated.items():
            start, __, end = pattern.partition("*")
            for column in map(str, table):
                if not fnmatchcase(column, pattern) or ("*" in pattern and column in taken):
                    continue
                numbers = {name: table.get(f"{column}_{name}") for name in ("low", "high", "floor")}
                if pattern == next(iter(stated)):
                    numbers = {name: table.get(name) if value is None else value for name, value in numbers.items()}
                rows = table.assign(**numbers, value=table[column]).astype(dict.fromkeys((*numbers, "value"), float))
                part = column[len(start) :].removesuffix(end) if "*" in pattern else column
                stacked.append(rows.assign(column=part, label=label or self._label_column(column, table)))
        if not stacked:
            self._require(key, stated, table)
        return pd.concat(stacked, ignore_index=True) if stacked else table

    def _label_column(self, column: str, table: pd.DataFrame) -> str:
        """Return the label of an axis by default: the heading of its column, with the unit of proportions."""
        is_measured = f"{column}_low" in table or pd.api.types.is_float_dtype(table[column])
        is_proportion = is_measured and bool(table[column].dropna().between(0, 1).all())
        return find_heading(column, self.result.block) + " (%)" * is_proportion

    def _require(self, key: str, columns: Iterable[str], table: pd.DataFrame) -> None:
        """Raise ConfigError that names the file, the chart and the key of a column that the table lacks."""
        for name in columns:
            if name and name not in table:
                raise ConfigError(
                    f"{find_entry('block', self.result.block).yaml}: charts.{self.name}: {key}: "
                    f"the table {self.spec.table} has no column {name}{suggest_names(name, map(str, table))}",
                    f"It has: {', '.join(map(str, self.result.tables.get(self.spec.table, table)))}.",
                )

    def _select_rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows to draw in their order, with "" for a missing name."""
        spec = self.spec
        keys = {"where": spec.where, "x or y": [*self.row_columns, self.other], "hue": [spec.hue]}
        keys |= {"count": [spec.count], "panels": [spec.panels], "sort": [name.removeprefix("-") for name in spec.sort]}
        for key, columns in keys.items():
            self._require(key, columns, table)
        for column, patterns in spec.where.items():
            places = table[str(column)].map(partial(_find_pattern, patterns))
            table = table.loc[places[places >= 0].sort_values(kind="stable").index]
        if spec.chart not in ("cells", "images"):
            table = table.dropna(subset=["value", *filter(None, [self.other])])
        names = filter(None, [*self.row_columns, self.hue, spec.panels])
        table = table.assign(**{name: table[name].astype(object).fillna("") for name in names})
        for column in reversed(spec.sort):
            name = column.removeprefix("-")
            table = table.sort_values(name, ascending=name == column, kind="stable")
        rows = pd.Series(list(zip(*(table[name] for name in self.row_columns), strict=True)) or "", table.index, object)
        table = table.assign(row=rows, colour=table[self.hue] if self.hue else "", is_filled=True)
        for column, patterns in spec.filled.items():
            if column in table:  # results of earlier versions may lack it
                table["is_filled"] &= table[column].map(partial(_find_pattern, patterns)) >= 0
        if spec.chart == "bars" or (spec.chart == "dots" and spec.sort):
            largest = table.sort_values(spec.count, ascending=False, kind="stable") if spec.count else table
            table = table[table["row"].isin(largest["row"].unique()[: plots.MAX_BARS])]
        if spec.most:
            table = table[table["row"].isin(table["row"].unique()[: spec.most])]
        n = table["row"].nunique() if self.row_columns else len(table)
        return table if n >= spec.least and ("value" not in table or table["value"].notna().any()) else table[:0]

    @cached_property
    def _runs(self) -> RunStyles | None:
        """Return the colours of runs, if the result tells their recipes."""
        saved: list[Any] = [*self.result.tables.values(), *self.result.arrays.values()]
        for source in saved:
            if {"run", "recipe"} <= set(source) and (isinstance(source, dict) or "kind" in source):
                table = pd.DataFrame({name: source[name] for name in ("run", "recipe")})
                return RunStyles(table.assign(kind=source.get("kind", "run")))
        return None

    def list_values(self, column: str) -> list[Any]:
        """Return the values of a column once: as the result or the chart orders them, or else in the order of rows."""
        values = self.spec.y if self.spec.chart == "lines" else self.spec.x
        known: Sequence[str] = ["", *self.result.classes, *values] if column in _CLASSES else []
        if column == "run" and self._runs:
            known = self._runs.labels
        if column == "recipe":  # in the order of the runs, which fixes their colours in all figures
            known = [str(name) for saved in self.result.arrays.values() for name in saved.get("recipe", ())]
        return sorted(dict.fromkeys(self.table[column]), key=lambda name: [*known, name].index(name))

    @cached_property
    def colours(self) -> list[Any]:
        """Return what colours stand for."""
        return self.list_values("colour" if not self.hue else self.hue)

    def style_mark(self, colour: Any, is_filled: bool = True, **__: Any) -> dict[str, Any]:
        """Return the options of the mark of a row."""
        index = self.colours.index(colour)
        style = {"color": plots.get_colour(index), "marker": plots.get_marker(index)}
        if self.hue == "run" and self._runs:
            style = self._runs.of(colour)
        elif colour in self.result.classes:
            style["color"] = plots.get_colour(self.result.classes.index(colour))
        elif self.hue in ("class", "target"):
            style = {"color": plots.GREY if self.spec.chart == "bars" else "black", "marker": "s"}  # of all classes
        return style if is_filled else style | {"markerfacecolor": "white"}

    def name_colours(self) -> dict[str, dict[str, Any]]:
        """Return the style of each name in the legend, unless rows name the colours; runs of a recipe have one name."""
        if not self.hue or self.hue in self.row_columns:
            return {}
        styles = {colour: self.style_mark(colour) for colour in self.colours}
        if self.hue == "run" and self._runs:
            known = {self._runs.word(model): self._runs.of(model) for model in self._runs.models}
            return {name: style for name, style in known.items() if style in styles.values()}
        names = self.name_values(self.hue, self.colours, 44)
        if self.spec.chart == "histograms":  # a row is an image
            counts = self.table["colour"].value_counts() // len(self.list_panels())
            names = {colour: f"{name} (n = {counts[colour]})" for colour, name in names.items()}
        return {names[colour]: style for colour, style in styles.items()}

    def name_values(self, column: str, values: Iterable[Any], width: int = 30) -> dict[Any, str]:
        """Return short and distinct names of the values of a column in the current language."""
        known = list(dict.fromkeys(values))
        if column == "run" and self._runs:
            return {value: self._runs.word(value) for value in known}
        missing = _("all classes") if column in _CLASSES else _("not known")
        names = [self.translate(column, value) or missing for value in known]
        return dict(zip(known, plots.shorten_names(names, width), strict=True))

    def translate(self, column: str, value: Any) -> str:
        """Return the readable form of a text of a table: a word or heading of its block, or of another one."""
        text, block = str(value), self.result.block
        if text in self.words:
            return _(self.words[text])
        if isinstance(value, float) and 0 < value < 1:
            return f"{100 * value:g}%"
        if column == "set":
            return get_title("corruption", text)  # some sets are corruptions of another
        if column in _NAMES and not (column == "column" and text in (*self.spec.x, *self.spec.y)):
            return text
        names = (find_word(text, block), find_heading(text, block), get_title("ood_score", text))
        return next((name for name in names if name != text), text)

    def name_rows(self) -> dict[tuple[Any, ...], str]:
        """Return the names of the rows in their order, with their numbers of images."""
        rows = list(dict.fromkeys(self.table["row"]))
        if len(self.row_columns) == 1 and not self.spec.sort:
            rows = [(value,) for value in self.list_values(self.row_columns[0])]
        width = 30 if len(self.row_columns) == 1 else 24
        words = [self.name_values(column, self.table[column], width) for column in self.row_columns]
        texts = {row: dict.fromkeys(word[value] for word, value in zip(words, row, strict=True)) for row in rows}
        summed = self.table.groupby("row", sort=False)
        counts = summed["value"].sum() if self.spec.share == "row" else summed[self.spec.count or "value"].max()
        is_counted = self.spec.count or self.spec.share == "row"
        names = {row: fill(", ".join(text), _LONGEST_NAME, break_long_words=False) for row, text in texts.items()}
        return {row: name + (f" (n = {counts[row]:.0f})" if is_counted else "") for row, name in names.items()}

    def list_panels(self) -> list[Panel]:
        """Return a panel for each label of values, or for each value of the column that divides the rows."""
        table, spec = self.table, self.spec
        column = spec.panels or ("label" if self.other != "column" else "")
        parts = {value: table[table[column] == value] for value in self.list_values(column)} if column else {"": table}
        known = {value: rows for value, rows in parts.items() if rows["value"].notna().any()}
        titles = self.name_values(column, known, 30) if spec.panels else {}
        panels = []
        for value, rows in list(known.items())[:_MOST_PANELS]:
            label = spec.label or rows["label"].iloc[0]
            title = titles.get(value, _(str(value)) if spec.label and len(known) > 1 else "")
            panels.append(Panel(title, _(label), _find_unit(label), rows))
        return panels

    def label_other(self) -> tuple[str, Unit]:
        """Return the label and unit of the axis that is not that of the values."""
        label = {**self.spec.y, **self.spec.x}[self.other]
        if not label and self.other != "column":
            label = self._label_column(self.other, self.table)
        return _(label) if label else "", _find_unit(label)

    def list_lines(self) -> list[tuple[float, str]]:
        """Return the reference values of the first column of values, with their labels."""
        if not any(fnmatchcase(column, next(iter(self.spec.x))) for column in map(str, self.table)):
            return []
        known: dict[Any, Any] = {name: metric.value for name, metric in self.result.metrics.items()}
        known |= self.result.provenance | {"guessing": 1 / max(1, len(self.result.classes))}
        stated = self.spec.lines.items()
        lines = [(float(name) if name[:1].isdigit() else known.get(name), text) for name, text in stated]
        return [(value, _(text, share=f"{value:.0%}")) for value, text in lines if value is not None]


def _find_unit(label: str) -> Unit:
    """Return the unit of values by their label, in whose brackets it is."""
    return "%" if "(%" in label else "points" if "(points" in label else ""


def _tabulate_metrics(result: Result) -> pd.DataFrame:
    """Return a row for each metric with a value: its name, the parts of that, value, low, high, floor and n."""
    rows = []
    for name, metric in result.metrics.items():
        parts = {f"part{index}": part for index, part in enumerate(name.split("/"), 1)}
        numbers = {"value": metric.value, "low": metric.low, "high": metric.high, "floor": metric.floor, "n": metric.n}
        rows.append({"metric": name, **parts, **numbers})
    return pd.DataFrame(rows).dropna(subset="value") if rows else pd.DataFrame()


def _find_pattern(patterns: Any, value: Any) -> int:
    """Return the place of the first of some patterns that a value matches, -1 if none does; "!x" matches all but x."""
    stated = patterns if isinstance(patterns, list | tuple) else [patterns]
    matches = [fnmatchcase(str(value), str(text).removeprefix("!")) != str(text).startswith("!") for text in stated]
    return matches.index(True) if True in matches else -1
