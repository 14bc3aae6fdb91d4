"""Report page: the content of a study, rendered as HTML and Markdown."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

import avatar_bench
from avatar_bench.config.entries import find_entries
from avatar_bench.console.progress import track
from avatar_bench.errors import DataError, OutputError
from avatar_bench.files import html
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.csv_io import read_csv
from avatar_bench.files.table_io import find_table
from avatar_bench.i18n import _, get_language, use_language
from avatar_bench.metrics import plots
from avatar_bench.metrics.calibration import TemperatureFit
from avatar_bench.metrics.rounding import format_number
from avatar_bench.reporting import block_sections, cautions, data_section
from avatar_bench.reporting.headline import format_headline
from avatar_bench.reporting.inline_images import MAX_FIGURE_BYTES, InlineImage, inline_figures
from avatar_bench.reporting.leaderboard import Leaderboard, build_leaderboards
from avatar_bench.reporting.number_format import format_temperature
from avatar_bench.reporting.page_links import PageLinks
from avatar_bench.reporting.provenance import build_model_table, build_result_table
from avatar_bench.reporting.ranking_tables import build_gain_tables, build_leaderboard_table, build_score_tables
from avatar_bench.reporting.saved_result import Problem, SavedResult
from avatar_bench.reporting.saved_tables import RunStyles
from avatar_bench.reporting.study import ReportedModel, Study
from avatar_bench.results.block_figures import draw_figures
from avatar_bench.results.declaration import declare_block
from avatar_bench.results.result import has_figures, redraw
from avatar_bench.runs.record import flatten_options

MAX_PAGE_BYTES = 15_000_000  # bytes of the page
_FEW_RESULTS = 8  # drawn faster than further processes start
_LINK = 600  # maximum bytes of the link that replaces a figure
_RUN_FILES = ("config.yaml", "run.json", "split.csv", "metrics.csv")


def write_report(study: Study, page: Path, language: str, largest: int = MAX_PAGE_BYTES) -> str:
    """Write the page, at most `largest` bytes, and a Markdown file of the same name; return the headline.

    Raises OutputError where `page` is a folder, DataError where one of the files is there and no report, OSError where
    one of them cannot be written; then both are as before.
    """
    if page.is_dir():
        raise OutputError(f"out={page} is a folder.", "Expected a file name, such as report.html.")
    markdown = page.with_suffix(".md")
    for file in (page, markdown):
        if file.exists() and not _is_report(file):
            reason = f"out={page}: {file}, which is no report, would be overwritten."
            raise DataError(reason, "Choose another name: out=FILE.html")
    for folder, why in draw_missing_figures(saved for __, saved in study.saved).items():
        where = Path(os.path.relpath(folder, study.root)).as_posix()
        study.problems.append(Problem("damaged", where, _("its figures cannot be drawn: {why}", why=why)))
    page.parent.mkdir(parents=True, exist_ok=True)
    content = _collect_content(study, PageLinks(page)) | {"lang": language}
    plain = _render(html.build_markdown_environment(), "report/report.md.jinja", content, {})
    text = _render_html(content, largest)
    with atomic_write(markdown) as plain_part, atomic_write(page) as part:
        plain_part.write_text(plain, encoding="utf-8")
        part.write_text(text, encoding="utf-8")
    return str(content["answers"][0])


def draw_missing_figures(found: Iterable[SavedResult]) -> dict[Path, str]:
    """Draw the figures of results in the current language where they are missing, and put them beside the others.

    Return the reasons by folder where this failed. Those figures, and the ones of blocks that are not installed here,
    stay in the language that they have.
    """
    language, known = get_language(), find_entries("block")
    folders = [
        saved.folder
        for saved in found
        if saved.result.block in known and not has_figures(saved.folder, saved.result.figures, language)
    ]
    if len(folders) <= _FEW_RESULTS:
        reasons = [_redraw(folder, language) for folder in folders]
    else:
        for folder in folders:  # imported once, before the processes are forked
            known[folder.name].load()
        with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("fork")) as pool:
            reasons = list(
                track(pool.map(_redraw, folders, [language] * len(folders)), "figures", len(folders), "result")
            )
    return {folder: reason for folder, reason in zip(folders, reasons, strict=True) if reason}


def _redraw(folder: Path, language: str) -> str:
    """Draw the figures of one result; return "", or the reason of a failure, such as a table without a column."""
    try:
        with use_language(language):
            redraw(folder, draw_figures, language)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _is_report(file: Path) -> bool:
    """Return whether a file is a report: it names this package and its version, Markdown in its last line."""
    text = file.read_text(encoding="utf-8", errors="replace").strip()
    if file.suffix == ".md":
        return bool(re.search(r"^avatar_bench \d\S*\Z", text, re.MULTILINE))
    is_checker = '<main id="main" class="checker"' in text  # a page of `export`, which is made of the same parts
    return not is_checker and bool(re.search(r'<p class="soft">avatar_bench \d[^<\s]*</p>', text))


def _render_html(content: dict[str, Any], largest: int) -> str:
    """Render the page; where it is too large, without its last figures, then without long tables."""
    figures = inline_figures(_order_figures(content), min(MAX_FIGURE_BYTES, largest // 2))
    for details in (True, True, False, False):
        content["details"] = details
        text = _render(html.build_html_environment(), "report/report.html.jinja", content, figures)
        over = len(text.encode()) - largest
        if over <= 0:
            break
        while figures and over > 0:
            __, last = figures.popitem()
            over -= max(0, len(last.data) * 4 // 3 - _LINK)
    return text


def _render(environment: Environment, template: str, content: dict[str, Any], figures: dict[Path, InlineImage]) -> str:
    environment.filters["address"] = Markup  # already quoted as a URL
    environment.globals |= {"_": _, "inlined": figures.get, "slug": Slugs(), "declare_block": declare_block}
    return environment.get_template(template).render(content)


class Slugs:
    """Unique ids of letters, digits and dashes for names."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __call__(self, *parts: str) -> str:
        """Return the id of a name, always the same."""
        name = "\n".join(parts)
        if name not in self._known:
            plain = re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-") or "part"
            taken = self._known.values()
            self._known[name] = plain if plain not in taken else f"{plain}-{len(self._known)}"
        return self._known[name]


def _collect_content(study: Study, links: PageLinks) -> dict[str, Any]:
    leaderboards, styles = build_leaderboards(study), _assign_styles(study)
    tables = [build_leaderboard_table(board, styles) for board in leaderboards]
    return {
        "title": _("Report on {folder}", folder=study.root.resolve().name),
        "question": _("Is this avatar a real photo, a drawing or AI-generated, and which model predicts it best?"),
        "classes": list(dict.fromkeys(name for __, saved in study.saved for name in saved.result.classes)),
        "answers": [format_headline(board) for board in leaderboards]
        or [_("No run was evaluated by blind_test: there is no answer yet.")],
        "boards": tables,
        "board_kinds": _list_kinds(leaderboards),
        "scores": list(build_score_tables(study, links, styles)),
        "gains": list(build_gain_tables(study, links, styles)),
        "alerts": cautions.find_alerts(study, leaderboards),
        "problems": cautions.build_problem_table(study),
        "warnings": cautions.build_warning_table(study),
        "count_charts": data_section.draw_count_charts(study),
        "split_tables": data_section.build_split_tables(study),
        "set_tables": list(data_section.build_set_tables(study)),
        "uses": data_section.describe_uses(study),
        "audit": data_section.find_assessment(study),
        "comparisons": block_sections.build_comparison_sections(study, links, styles),
        "blocks": block_sections.build_run_sections(study, links, styles),
        "models": [(model.label, *styles[model.label].values()) for model in study.models],
        "model_pages": [_build_model_page(study, model, links, styles[model.label]) for model in study.models],
        "evaluated": build_model_table(study),
        "provenance": build_result_table(study, links),
        "version": avatar_bench.__version__,
        "counts": {"runs": len(study.runs), "ensembles": len(study.models) - len(study.runs), "sets": study.sets},
    }


def _assign_styles(study: Study) -> RunStyles:
    """Assign each model the colour and marker of its recipe in all figures and tables."""
    recipes = list(dict.fromkeys(model.recipe for model in study.models))
    places = {model.label: recipes.index(model.recipe) for model in study.models}
    return {
        label: {"color": plots.get_colour(place), "marker": plots.get_marker(place)} for label, place in places.items()
    }


def _list_kinds(boards: list[Leaderboard]) -> list[str]:
    """Return the kinds of ranks and rows in the leaderboards that the page explains."""
    rows = [row for board in boards for row in board.rows]
    kinds = {"tested": any(board.is_tested for board in boards)}
    kinds["by_intervals"] = any(
        not board.is_tested and board.ranked_by == "accuracy" and len(board.rows) > 1 for board in boards
    )
    kinds |= {
        "guessing": any(row.is_guessing for row in rows),
        "unranked": any(row.model.kind != "run" and row.reason for row in rows),
    }
    return [kind for kind, is_there in kinds.items() if is_there]


def _format_temperature(record: Mapping[str, Any]) -> str:
    value, fit = record.get("temperature"), TemperatureFit.parse(record.get("temperature_fit"))
    return format_temperature(value, fit) if isinstance(value, int | float) else ""


def _build_model_page(study: Study, model: ReportedModel, links: PageLinks, look: Mapping[str, str]) -> dict[str, Any]:
    record, curves = model.record, _draw_curves(model)
    facts = [
        (_("kind"), {"run": _("run"), "soup": _("soup")}.get(model.kind, _("ensemble"))),
        (_("backbone"), flatten_options(model.config).get("model.backbone") or record.get("model")),
        (_("mode"), record.get("mode")),
        (_("seed"), record.get("seed")),
        (_("members"), ", ".join(_name_members(study, record))),
        (_("val macro-F1"), _format_fact((record.get("metrics") or {}).get("val/macro_f1"))),
        (_("temperature"), _format_temperature(record)),
        (_("training time (s)"), _format_fact(record.get("train_seconds"))),
        (_("passes per training step"), record.get("passes_per_step")),
        (_("checkpoint, SHA-256"), model.checkpoint[:12]),
    ]
    shown = None
    if curves.is_file():
        text = _("Loss and metrics by epoch")
        alt = _("{what}, {model}.", what=text, model=model.label)
        shown = block_sections.ReportFigure(curves, alt, text, links.link(curves), None, model.label)
    return {
        "label": model.label,
        "look": look,
        "facts": [(name, value) for name, value in facts if value not in (None, "")],
        "folder": links.link(model.folder),
        "links": [
            (file.name, links.link(file)) for name in _RUN_FILES if (file := find_table(model.folder / name)).is_file()
        ],
        "curves": shown,
        "metrics": block_sections.build_metric_table(model),
        "evaluated_by": list(dict.fromkeys(block for __, block in model.results)),
    }


def _draw_curves(model: ReportedModel) -> Path:
    """Return the file of a run's training curves in the current language; draw it if training used another one."""
    file, language = model.folder / "curves.png", get_language()
    if not file.is_file() or model.config.get("lang", "en") == language:
        return file
    own = model.folder / language / "curves.png"
    if not own.is_file():
        own.parent.mkdir(exist_ok=True)
        history = read_csv(model.folder / "metrics.csv")
        with atomic_write(own) as part:
            curves = plots.draw_training_curves(history, model.record.get("best_epoch"))
            curves.savefig(part, format="png", metadata=plots.CHART)
    return own


def _format_fact(value: Any) -> Any:
    return format_number(value) if isinstance(value, float) else value


def _name_members(study: Study, record: dict[str, Any]) -> Iterator[str]:
    """Yield the members of an ensemble with their weights."""
    labels = {model.checkpoint: model.label for model in study.runs}
    members = record.get("members")
    for member in members if isinstance(members, list) else ():
        if isinstance(member, dict):
            label = labels.get(str(member.get("checkpoint_sha256")), str(member.get("run")))
            weight = member.get("weight")
            yield f"{label} ({format_number(weight)})" if isinstance(weight, float) else label


def _order_figures(content: dict[str, Any]) -> list[Path]:
    """Return the files of all figures, the most informative first: where space is short, the last become links.

    The order is: comparisons on the first set, the main figure of each block there, its other figures, other sets.
    """
    curves = [(1, one["curves"].file) for one in content["model_pages"] if one["curves"]]
    ranked = [*curves, *_rank_figures(content["comparisons"], 0, 3), *_rank_figures(content["blocks"], 1, 4)]
    return [file for __, file in sorted(ranked, key=lambda pair: pair[0])]


def _rank_figures(
    sections: Sequence[block_sections.BlockSection], first: int, others: int
) -> Iterator[tuple[int, Path]]:
    for section in sections:
        for place, part in enumerate(section.parts):
            for main, group in enumerate(part.figures.values()):
                rank = others if place else first if not main or not first else first + 1
                yield from ((rank, one.file) for one in group)
