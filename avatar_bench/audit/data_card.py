"""Data card: a page, in Markdown and HTML, with contents, charts of counts and assessment of a data set."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from avatar_bench.audit.assessment import AUDIT_BLOCK, Assessment, describe_marks
from avatar_bench.data.decoding import decode
from avatar_bench.files import html
from avatar_bench.files.table_io import find_table, read_table
from avatar_bench.i18n import _, get_language
from avatar_bench.metrics import plots
from avatar_bench.results.declaration import declare_block, find_heading
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Metric, Result, locate_figure

_SAMPLES, _A_SOURCE, _ACROSS = 24, 3, 6  # images per class, per source of a class, per row
_COLUMNS = ["path", "label", "source", "split"]  # of the images
_QUARANTINE = 40  # rows shown; the file has all of them
_WIDTH = 1500  # pixels of an embedded figure


def write_card(folder: Path, result: Result) -> list[Path]:
    """Write card.md and card.html in the current language into the folder of a data set; return their paths.

    `folder` contains manifest.csv, the saved `result` of data_audit in audit/ and, where they exist, the other tables
    of `prepare`. The HTML file is self-contained; the Markdown shows images from audit/ and card/.
    """
    manifest = _read_table(folder / "manifest.csv", _COLUMNS)
    files = {"blind": folder / "blind.csv"} | {file.stem: file for file in sorted(folder.glob("ood_*.*"))}
    held_out = {name: table for name, file in files.items() if len(table := _read_table(file, _COLUMNS))}
    images = _combine_images(manifest, held_out)
    counts = pd.crosstab(images["label"], images["split"])[_order_splits(images)]
    counts = counts.assign(**{_("all"): counts.sum(axis=1)}).rename_axis(_("class")).rename_axis(columns=None)
    (folder / "card").mkdir(exist_ok=True)
    content = _collect_content(folder, manifest, held_out, result) | {
        "counts": counts.reset_index(),
        "chart": _save_figure(draw_counts(images, _order_splits(images)), folder / "card" / "counts.png"),
        "figures": _list_figures(folder / "audit", result),
        "samples": _draw_samples(folder, manifest),
    }
    plain, page = html.build_markdown_environment(), html.build_html_environment()
    plain.filters["image"] = lambda file: Markup(file.relative_to(folder).as_posix())
    page.filters["image"] = _embed_figure
    written = {folder / "card.md": plain, folder / "card.html": page}
    for file, environment in written.items():
        environment.globals |= {"_": _, "lang": get_language()}
        file.write_text(environment.get_template(f"{file.name}.jinja").render(content), encoding="utf-8")
    return list(written)


def has_card(folder: Path, language: str) -> bool:
    """Return whether the folder of a data set contains its card in a language."""
    page = folder / "card.html"
    if not (page.is_file() and (folder / "card.md").is_file()):
        return False
    with page.open(encoding="utf-8") as lines:
        return f'<html lang="{language}">' in lines.read(200)


@plots.use_style()
def draw_counts(images: pd.DataFrame, splits: Sequence[str]) -> Figure:
    """Draw image counts by class, split and source: bars stacked by class, with the total at the end.

    `images` has one row per image with label, source and split; `splits` is the order of the splits. Classes missing
    from the first split come last, so that the others keep their colours.
    """
    first = set(images["label"][images["split"] == splits[0]])
    classes = sorted(set(images["label"]), key=lambda label: (label not in first, label))
    by_class = pd.crosstab(images["label"], images["label"]).reindex(index=classes, columns=classes)
    by_split = pd.crosstab(images["split"], images["label"]).reindex(index=list(splits), columns=classes)
    by_source = pd.crosstab(images["source"], images["label"]).reindex(columns=classes)
    order = np.lexsort((-by_source.sum(axis=1), by_source.to_numpy().argmax(axis=1)))
    largest = by_source.sum(axis=1).nlargest(plots.MAX_BARS).index
    by_source = by_source.iloc[order].loc[lambda table: table.index.isin(largest)]
    has_sources = by_source.index.astype(str).str.len().any()
    rows = max(len(by_class) + len(by_split) + 4, len(by_source))
    figure = plots.create_figure(8.4 if has_sources else 4.4, 1.5 + 0.22 * rows)
    grid = figure.add_gridspec(2, 2 if has_sources else 1, height_ratios=[len(by_class) + 1, len(by_split) + 1])
    _draw_stack(figure.add_subplot(grid[0, 0]), by_class, _("By class"))
    _draw_stack(figure.add_subplot(grid[1, 0]), by_split, _("By split")).set_xlabel(_("images"))
    if has_sources:
        _draw_stack(figure.add_subplot(grid[:, 1]), by_source, _("By source")).set_xlabel(_("images"))
    handles = [
        Patch(color=plots.get_colour(index), label=plots.shorten_name(name)) for index, name in enumerate(classes)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(classes)))
    return figure


def _collect_content(
    folder: Path, manifest: pd.DataFrame, held_out: dict[str, pd.DataFrame], result: Result
) -> dict[str, Any]:
    sources, refused = (_read_table(folder / f"{name}.csv") for name in ("sources", "quarantine"))
    blind = held_out.get("blind", pd.DataFrame())
    sources = sources if len(blind) else sources.drop(columns="blind", errors="ignore")
    saved, after = result.provenance.get("assessment"), result.provenance.get("equalised/assessment")
    assessment = Assessment.parse(saved) if saved else Assessment()
    equalised = Assessment.parse(after) if after else assessment
    properties = result.tables.get("single_properties", pd.DataFrame({"property": [], "auroc": []})).head(3)
    warnings = result.warnings[1:] if assessment.suitable != "not_asked" else result.warnings
    label_errors = Reason.parse(result.provenance.get("label_errors", {"code": "not_requested"}))
    return {
        "name": folder.name,
        "n": len(manifest),
        "n_blind": len(blind),
        "n_ood": sum(len(table) for name, table in held_out.items() if name != "blind"),
        "sources": _rename_columns(sources.loc[:, (sources != "").any()]),
        "licences": sorted(set(sources["licence"])) if "licence" in sources else [],
        "suitable": assessment.suitable,
        "assessment": assessment.format(),
        "equalised": equalised.format() if equalised.suitable != assessment.suitable else None,
        "mended": assessment.suitable == "no" and equalised.suitable != "no",
        "probes": list(_list_probes(result.metrics)),
        "marks": describe_marks(result),
        "warnings": [format_reason(warning, AUDIT_BLOCK) for warning in warnings],
        "single_properties": [
            (find_heading(name, AUDIT_BLOCK), auroc) for name, auroc in properties[["property", "auroc"]].to_numpy()
        ],
        "hints": _rename_columns(result.tables.get("hints", pd.DataFrame())),
        "label_errors": format_reason(label_errors, AUDIT_BLOCK),
        "refused": _rename_columns(refused.head(_QUARANTINE)),
        "n_refused": len(refused),
        "version": result.provenance.get("version", ""),
        "fingerprint": result.provenance.get("data_fingerprint", ""),
    }


def _list_figures(folder: Path, result: Result) -> list[tuple[Path, str]]:
    """Return the figures of the audit that are drawn in the current language, with their captions."""
    declaration = declare_block(AUDIT_BLOCK)
    figures = [
        (Path(f"{locate_figure(folder, name, get_language())}.png"), declaration.find_caption(name))
        for name in declaration.order_figures(result.figures)
    ]
    return [(file, caption) for file, caption in figures if file.is_file()]


def _rename_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with readable column names instead of those of the file."""
    words = {"source": _("source"), "label": _("class"), "count": _("images"), "licence": _("licence")}
    words |= {"author": _("author"), "generator": _("generator"), "homepage": _("homepage"), "blind": _("blind")}
    words |= {"ood": _("out-of-domain set"), "hint": _("hint"), "file": _("file"), "reason": _("reason")}
    return table.rename(columns=words)


def _read_table(file: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    return read_table(file, columns, texts=None) if find_table(file).is_file() else pd.DataFrame()


def _combine_images(manifest: pd.DataFrame, held_out: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return label, source and split of every image; all out-of-domain sets count as one split."""
    parts = [manifest.assign(split=manifest["split"].replace("", _("no split")))]
    parts += [
        table.assign(split=_("blind") if name == "blind" else _("out of domain")) for name, table in held_out.items()
    ]
    return pd.concat([part.reindex(columns=["label", "source", "split"], fill_value="") for part in parts])


def _order_splits(images: pd.DataFrame) -> list[str]:
    order = ("train", "val", "test", _("no split"), _("blind"), _("out of domain"))
    present = set(images["split"])
    return [*(name for name in order if name in present), *sorted(present - set(order))]


def _list_probes(metrics: dict[str, Metric]) -> Iterator[tuple[str, str, str]]:
    """Yield the input of each probe, its AUROC as stored, and its AUROC after equalising."""
    probes = {
        "metadata_out_of_sources": _("the file alone, on images of other sources: format, size, JPEG quality, EXIF"),
        "metadata": _("the file alone, on other images of the same sources"),
        "appearance": _("overall appearance: brightness, contrast, sharpness"),
        "colour": _("colours alone: a histogram with 16 bins per channel"),
        "residual": _("noise and frequencies: statistics of DCT and noise residual"),
        "source": _("the name of the source"),
    }
    for name, words in probes.items():
        if f"{name}_auroc" in metrics:
            after = metrics.get(f"equalised/{name}_auroc")
            yield words, _format_metric(metrics[f"{name}_auroc"]), _format_metric(after) if after else _("not measured")


def _format_metric(metric: Metric) -> str:
    if metric.value is None:
        return _("none: {reason}", reason=format_reason(metric.reason, AUDIT_BLOCK) if metric.reason else "")
    if metric.low is None or metric.high is None:
        return f"{metric.value:.2f}"
    low, high = f"{metric.low:.2f}", f"{metric.high:.2f}"
    return _("{value} ({low} to {high})", value=f"{metric.value:.2f}", low=low, high=high)


def _save_figure(figure: Figure, file: Path) -> Path:
    file.write_bytes(plots.encode_png(figure, dpi=130))
    figure.clear()
    return file


def _draw_samples(folder: Path, manifest: pd.DataFrame) -> list[tuple[str, Path]]:
    """Draw a few images of each class, from as many sources as fit, and save them in card/."""
    drawn = []
    for number, (label, part) in enumerate(manifest.groupby("label"), start=1):
        turn = part.groupby("source").cumcount()
        few = part[turn < _A_SOURCE].assign(turn=turn).sort_values(["turn", "source"], kind="stable").head(_SAMPLES)
        few = few.sort_values(["source", "turn"])
        titles = [source or _("source not known") for source in few["source"]]
        figure = plots.draw_gallery([decode(folder / path) for path in few["path"]], titles, _ACROSS)
        file = folder / "card" / f"samples_{number}.png"  # a class name may not be a valid file name
        drawn.append((str(label), _save_figure(figure, file)))
    return drawn


def _embed_figure(file: Path) -> Markup:
    with Image.open(file) as image:
        image.thumbnail((_WIDTH, 8 * _WIDTH))
        stream = io.BytesIO()
        image.convert("RGB").save(stream, "WEBP", quality=86)
    return Markup("data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode())


def _draw_stack(axes: Axes, counts: pd.DataFrame, title: str) -> Axes:
    """Draw one bar per row, the first on top, stacked by class (columns)."""
    values = counts.fillna(0).to_numpy()
    starts = np.cumsum(values, axis=1) - values
    rows = np.arange(len(counts))
    for index in range(values.shape[1]):
        axes.barh(rows, values[:, index], left=starts[:, index], color=plots.get_colour(index), height=0.72)
    for row, total in enumerate(values.sum(axis=1)):
        axes.annotate(f"{total:,.0f}", (total, row), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(rows, [plots.shorten_name(str(name) or _("not known"), 30) for name in counts.index])
    axes.set(title=title, xlim=(0, 1.16 * values.sum(axis=1).max()), ylim=(len(rows) - 0.4, -0.6))
    axes.grid(axis="x")
    return axes
