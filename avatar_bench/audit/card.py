"""The data card: one page, in Markdown and HTML, that says what a data set holds and what it is good for."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment
from markupsafe import Markup
from PIL import Image

from avatar_bench import pages, plots
from avatar_bench.cells import read_csv
from avatar_bench.data.decode import decode
from avatar_bench.results import Metric, Result

PROBES = {
    "metadata": "the file alone: format, size, JPEG quality, EXIF",
    "appearance": "the look as a whole: brightness, contrast, sharpness",
    "colour": "colours alone: a histogram of 16 bins a channel",
    "residual": "noise and frequencies: DCT and residual statistics",
    "source": "the name of the source",
}
FIGURES = {
    "aurocs": "How well the class is told without the picture, with intervals; dashed: chance.",
    "carriers": "The same by single property, as stored.",
    "properties": "How the properties are spread over the classes.",
    "confounding": "Pictures by source and class.",
}
_SAMPLES, _A_SOURCE, _ACROSS = 24, 3, 6  # pictures of a class, of them of one source, in a row
_QUARANTINE = 40  # rows shown; the file has them all
_WIDTH = 1500  # pixels of an inlined figure


def write_card(folder: Path, result: Result) -> list[Path]:
    """Write card.md and card.html into the folder of a data set, and give their paths.

    `folder` holds manifest.csv and, where there are any, blind.csv, sources.csv, quarantine.csv, and the saved `result`
    of data_audit in audit/. The HTML needs no other file; the Markdown shows pictures from audit/ and card/.
    """
    manifest = _table(folder / "manifest.csv")
    figures = [(folder / "audit" / f"{name}.png", caption) for name, caption in FIGURES.items()]
    figures = [(file, caption) for file, caption in figures if file.is_file()]
    content = _content(folder, manifest, result) | {"figures": figures, "samples": _write_samples(folder, manifest)}
    written = []
    for ending, environment in (("md", _markdown(folder)), ("html", _web())):
        page = folder / f"card.{ending}"
        page.write_text(environment.get_template(f"card.{ending}.jinja").render(content), encoding="utf-8")
        written.append(page)
    return written


def _content(folder: Path, manifest: pd.DataFrame, result: Result) -> dict[str, Any]:
    blind, sources, refused = (_table(folder / f"{name}.csv") for name in ("blind", "sources", "quarantine"))
    verdict = result.provenance.get("verdict", {"answer": "not asked", "reasons": []})
    return {
        "name": folder.name,
        "n": len(manifest),
        "n_blind": len(blind),
        "counts": _counts(manifest, blind),
        "sources": _telling(sources.drop(columns=[] if len(blind) else ["blind"], errors="ignore")),
        "licences": sorted(set(sources["licence"])) if "licence" in sources else [],
        "verdict": verdict,
        "equalised": result.provenance.get("equalised/verdict"),
        "probes": list(_probes(result.metrics)),
        "chance": result.metrics.get("majority_balanced_accuracy"),
        "warnings": result.warnings[1:] if verdict["answer"] != "not asked" else result.warnings,
        "carriers": result.tables.get("carriers", pd.DataFrame()).head(3).to_dict("records"),
        "hints": result.tables.get("hints", pd.DataFrame()),
        "label_errors": result.provenance.get("label_errors", "not looked for"),
        "refused": refused.head(_QUARANTINE),
        "n_refused": len(refused),
        "version": result.provenance.get("version", ""),
        "fingerprint": result.provenance.get("data_fingerprint", ""),
    }


def _table(file: Path) -> pd.DataFrame:
    return read_csv(file, dtype=str, keep_default_na=False) if file.is_file() else pd.DataFrame()


def _telling(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out the columns that are empty in every row."""
    return table.loc[:, [bool((table[name] != "").any()) for name in table]]


def _counts(manifest: pd.DataFrame, blind: pd.DataFrame) -> pd.DataFrame:
    """Count pictures by class and split, the blind set and all in columns of their own."""
    whole = pd.concat([manifest[["label", "split"]], blind.reindex(columns=["label"]).assign(split="blind")])
    table = pd.crosstab(whole["label"], whole["split"].replace("", "no split"))
    order = [name for name in ("train", "val", "test", "no split", "blind") if name in table]
    table = table[order].assign(total=table.sum(axis=1))
    return table.rename_axis("class").rename_axis(columns=None).reset_index()


def _probes(metrics: dict[str, Metric]) -> Iterator[tuple[str, str, str]]:
    """Give what is predicted from, the AUROC as stored, and that after equalising."""
    for name, words in PROBES.items():
        if f"{name}_auroc" in metrics:
            after = metrics.get(f"equalised/{name}_auroc")
            yield words, _said(metrics[f"{name}_auroc"]), _said(after) if after else "not measured"


def _said(metric: Metric) -> str:
    if metric.value is None:
        return f"none: {metric.reason}"
    interval = "" if metric.low is None or metric.high is None else f" ({metric.low:.2f} to {metric.high:.2f})"
    return f"{metric.value:.2f}{interval}"


def _write_samples(folder: Path, manifest: pd.DataFrame) -> list[tuple[str, Path]]:
    """Draw a few pictures of each class, of as many sources as there is room for, into card/."""
    (folder / "card").mkdir(exist_ok=True)
    drawn = []
    for number, (label, part) in enumerate(manifest.groupby("label"), start=1):
        turn = part.groupby("source").cumcount()
        few = part[turn < _A_SOURCE].assign(turn=turn).sort_values(["turn", "source"], kind="stable").head(_SAMPLES)
        few = few.sort_values(["source", "turn"])
        titles = [source or "source not known" for source in few["source"]]
        figure = plots.gallery([decode(folder / path) for path in few["path"]], titles, _ACROSS)
        file = folder / "card" / f"samples_{number}.png"  # a class may have a name that is none for a file
        figure.savefig(file, dpi=130)
        figure.clear()
        drawn.append((str(label), file))
    return drawn


def _markdown(folder: Path) -> Environment:
    environment = pages.markdown()
    environment.filters["picture"] = lambda file: Markup(file.relative_to(folder).as_posix())
    return environment


def _web() -> Environment:
    environment = pages.web()
    environment.filters["picture"] = _inlined
    return environment


def _inlined(file: Path) -> Markup:
    """Give a figure as an address that holds its own content."""
    with Image.open(file) as image:
        image.thumbnail((_WIDTH, 8 * _WIDTH))
        stream = io.BytesIO()
        image.convert("RGB").save(stream, "WEBP", quality=86)
    return Markup("data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode())
