"""Page, tables and figure of a measurement, and its sentences."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import avatar_bench
from avatar_bench.errors import OutputError
from avatar_bench.files.atomic_write import atomic_write, write_text
from avatar_bench.files.html import build_html_environment
from avatar_bench.files.paths import make_folder_name
from avatar_bench.files.table_io import write_table
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.plugins.measure.measurement import MEASUREMENT, TABLE_FILES, Measurement
from avatar_bench.plugins.measure.shares import ADJUSTED, COUNTING, EM, FEWEST_REVIEWED, REVIEWED
from avatar_bench.reporting.prediction_words import translate_class


def describe(measurement: Measurement) -> list[str]:
    """Return the share of the target in sentences, in the current language."""
    about = {"n": f"{measurement.n:,}", "class_": translate_class(measurement.target)}
    shares = {
        str(row.estimator): {name: percent(getattr(row, name)) for name in ("value", "low", "high")}
        for row in measurement.shares.itertuples()
        if row[1] == measurement.target
    }
    counting = shares[COUNTING]["value"]
    if REVIEWED in shares:
        text = _("{value} % ({low} to {high}) of {n} images are {class_} (95 %; {reviewed} reviewed images).")
        if shares[REVIEWED]["value"] == "0":
            text = _("At most {high} % of {n} images are {class_} (95 %; {reviewed} reviewed images).")
        headline = text.format(**about, **shares[REVIEWED], reviewed=f"{measurement.reviewed:,}")
        counted = _("Counting predictions would have said {counting} %.", counting=counting)
        return [headline, *_explain_bound(measurement, float(shares[REVIEWED]["high"]) / 100), counted]
    texts = {
        ADJUSTED: _(
            "{value} % ({low} to {high}) of {n} images are {class_}, by the confusion matrix, if errors here are as in "
            "calibration."
        ),
        EM: _("{value} % ({low} to {high}) of {n} images are {class_}, by EM, if errors here are as in calibration."),
    }
    return [
        *(text.format(**about, **shares[name]) for name, text in texts.items() if name in shares),
        _("Predictions call {counting} % of {n} images {class_}.").format(counting=counting, **about),
        _("How far that is wrong, only reviewed images show: review=200 out=review.html"),
    ]


def _explain_bound(measurement: Measurement, high: float) -> list[str]:
    """Return why the upper bound is as high as it is, where that is for strata without a reviewed positive."""
    strata = measurement.strata[measurement.strata["reviewed"] > 0]
    strata = strata.assign(part=strata["n"] / measurement.n)[strata["positives"].cumsum() == 0]
    bounds = -np.log(0.025) * strata["part"] / strata["reviewed"]
    if not bounds.max() >= high / 2:  # nor if there is none
        return []
    row, bound = strata.iloc[int(bounds.argmax())], float(f"{high / 10:.1g}")
    needed = bounds.max() * row["reviewed"] / bound
    return [
        _(
            "The upper bound is that high because only {k} of the {part} % with a score from {low} to {high} were "
            "reviewed, none of them of the class: a bound of {bound} % needs about {needed}.",
            k=f"{int(row['reviewed']):,}",
            part=percent(row["part"]),
            low=f"{row['score_low']:.2g}",
            high=f"{row['score_high']:.2g}",
            bound=percent(bound),
            needed=f"{int(float(f'{needed:.2g}')):,}",
        )
    ]


def percent(share: float) -> str:
    """Return a share in percent, with two digits, or three from 10 % on."""
    return np.format_float_positional(100 * share, 2 if share < 0.1 else 3, fractional=False, trim="-")


def name_estimator(name: str) -> str:
    """Return the name of an estimator in the current language."""
    return {
        COUNTING: _("counted predictions"),
        ADJUSTED: _("adjusted by the confusion matrix"),
        EM: _("EM on probabilities"),
        REVIEWED: _("from reviewed images"),
    }[name]


def describe_cautions(measurement: Measurement) -> list[str]:
    """Return how carefully to read the shares, in the current language."""
    texts = {
        "errors": _("{n:,} files without a prediction are left out: the shares are those of the others."),
        "not_predicted": _("No image is predicted as {class_}: whether there are any, only reviewed images can show."),
        "no_calibration": _("Without ckpt, nothing is known of the errors of the predictions."),
        "class_without_calibration": _("The calibration images lack a class, so that predictions cannot be adjusted."),
        "clipped": _(
            "Adjusted shares had to be clipped to lie between 0 and 1: errors here are not as in calibration."
        ),
        "selected": _("{n:,} labels are left out: they were chosen, before the random order was complete."),
        "unlabelled": _(
            "{n:,} of the images drawn have no label: they are assumed to be like others with such scores."
        ),
        "left_out": _("by={by}: groups left out, as too few of their images are there or reviewed: {n:,}."),
        "groups_counted": _(
            "by={by}: groups are counted predictions, and may differ in errors alone; label {fewest} images of each."
        ),
        "not_in_manifest": _("by={by}: {n:,} images without a value are a group of their own."),
    }
    return [texts[caution.code].format(**caution.values, fewest=FEWEST_REVIEWED) for caution in measurement.cautions]


def draw_figures(measurement: Measurement) -> dict[str, Figure]:
    """Draw the share of the target with its intervals: by estimator, and by the largest groups of each column."""
    shares = measurement.shares[measurement.shares["class"] == measurement.target]
    panels = {"shares": (shares["estimator"].map(name_estimator), shares)}
    for name, rows in measurement.groups.groupby("by", sort=False) if len(measurement.groups) else ():
        largest = rows.nlargest(plots.MAX_BARS, "n").sort_index()
        panels[f"by_{name}"] = largest["group"].map(str), largest
    return {name: _draw_rows(*panel, translate_class(measurement.target)) for name, panel in panels.items()}


@plots.use_style()
def _draw_rows(names: pd.Series, rows: pd.DataFrame, target: str) -> Figure:
    figure, axes = plots.create_axes(7, 0.8 + 0.24 * max(2, len(rows)))
    at, value = np.arange(len(rows)), rows["value"].to_numpy()
    ends = np.abs(np.stack([value - rows["low"], rows["high"] - value]))
    axes.errorbar(value, at, xerr=ends, fmt="o", color=plots.get_colour(0), capsize=3)
    axes.set_yticks(at, plots.shorten_names(names, 40))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel(_("share of {class_}, interval of 95 %", class_=target))
    plots.format_percent_axis(axes.xaxis)
    return figure


def write_measurement(measurement: Measurement, out: Path, language: str) -> None:
    """Write the page, and beside it the JSON, tables and figures that begin with its name; raise OutputError."""
    images = {name: plots.encode_png(figure, dpi=150) for name, figure in draw_figures(measurement).items()}
    try:
        write_text(out, _render(measurement, images, language))
        write_text(out.with_suffix(f".{MEASUREMENT}"), measurement.format_json())
        for name, image in images.items():
            with atomic_write(out.with_suffix(f".{make_folder_name(name)}.png")) as part:
                part.write_bytes(image)
        for name in TABLE_FILES:
            file = out.with_suffix(f".{name}")
            file.unlink(missing_ok=True)
            if len(table := getattr(measurement, name.removesuffix(".csv"))):
                write_table(table, file)
    except OSError as error:
        reason = f"out={out} cannot be written: {error.strerror or error}."
        raise OutputError(reason, "Choose another file: out=FILE.html") from error


def _render(measurement: Measurement, images: Mapping[str, bytes], language: str) -> str:
    environment = build_html_environment("avatar_bench.plugins.measure")
    environment.globals |= {"_": _, "name_estimator": name_estimator}
    environment.filters["number"] = lambda text: {"text": text, "number": True}
    shares, groups = measurement.shares, measurement.groups
    return environment.get_template("shares.html.jinja").render(
        lang=language,
        title=_("Shares in {n} images", n=f"{measurement.n:,}"),
        target=translate_class(measurement.target),
        sentences=describe(measurement),
        cautions=describe_cautions(measurement),
        images={name: f"data:image/png;base64,{base64.b64encode(image).decode()}" for name, image in images.items()},
        classes=[translate_class(name) for name in measurement.classes],
        rows=[
            [name_estimator(str(name)), *(_cell(row) for row in rows.itertuples())]
            for name, rows in shares.groupby("estimator", sort=False)
        ],
        columns=[
            about
            | {"estimator": name_estimator(about["estimator"])}
            | {"rows": [_list_cells(row) for row in groups.itertuples() if row.by == about["by"]]}
            for about in measurement.columns
        ],
        strata=[
            [f"{row.score_low:.3g}–{row.score_high:.3g}", row.n, row.reviewed, row.positives, _cell(row)]
            for row in measurement.strata.itertuples()
        ],
        version=avatar_bench.__version__,
    )


def _list_cells(row: Any) -> list[Any]:
    p_values = (f"{p:.2g}" if p == p else None for p in (row.p, getattr(row, "p_fdr", np.nan)))
    return [str(row.group), row.n, row.reviewed, _cell(row), *p_values]


def _cell(row: Any) -> dict[str, Any]:
    interval = f"{percent(row.low)}–{percent(row.high)} %"
    return {"value": row.value, "text": f"{percent(row.value)} %", "soft": interval}
