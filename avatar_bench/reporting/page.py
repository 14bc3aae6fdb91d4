"""Report page: the content of a study, rendered as HTML and Markdown."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

import avatar_bench
from avatar_bench.audit.assessment import Assessment, describe_marks
from avatar_bench.config.entries import find_entries
from avatar_bench.console.progress import track
from avatar_bench.errors import DataError, OutputError
from avatar_bench.files import html
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.table_io import find_table, read_csv
from avatar_bench.i18n import _, get_language
from avatar_bench.metrics import plots
from avatar_bench.metrics.calibration import TemperatureFit
from avatar_bench.reporting import block_sections, provenance
from avatar_bench.reporting.first_screen import find_alerts, format_headline
from avatar_bench.reporting.inline_images import MAX_FIGURE_BYTES, QUALITY_STEPS, InlineImage, inline_figures, shrink
from avatar_bench.reporting.leaderboard import Leaderboard, build_leaderboard_table, build_leaderboards
from avatar_bench.reporting.operating_point import build_operating_point
from avatar_bench.reporting.saved_result import Problem, SavedResult
from avatar_bench.reporting.study import ReportedModel, Study
from avatar_bench.reporting.tables import format_temperature
from avatar_bench.results.display import format_number
from avatar_bench.results.result import draw_figures, has_figures, redraw
from avatar_bench.runs.run_config import flatten_options

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
        study.problems.append(Problem("damaged", folder, _("its figures cannot be drawn: {why}", why=why)))
    page.parent.mkdir(parents=True, exist_ok=True)
    content = _collect_content(replace(study, page_folder=page.parent)) | {"lang": language}
    plain = _render(html.build_markdown_environment(), "report/report.md.jinja", content, {})
    text = _render_html(content, largest)
    with atomic_write(markdown) as plain_part, atomic_write(page) as part:
        plain_part.write_text(plain, encoding="utf-8")
        part.write_text(text, encoding="utf-8")
    return str(content["answers"][0])


def draw_missing_figures(results: Iterable[SavedResult]) -> dict[Path, str]:
    """Draw the figures of results in the current language where they are missing, and put them beside the others."""
    language, known = get_language(), find_entries("block")
    folders = [
        saved.folder
        for saved in results
        if saved.result.block in known and not has_figures(saved.folder, saved.result.figures, language)
    ]
    if len(folders) <= _FEW_RESULTS:
        reasons = list(map(_redraw, track(folders, "figures", unit="result")))
    else:
        for folder in folders:  # imported once, before the processes are forked
            known[folder.name].load()
        with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("fork")) as pool:
            reasons = list(track(pool.map(_redraw, folders), "figures", len(folders), "result"))
    return {folder: reason for folder, reason in zip(folders, reasons, strict=True) if reason}


def _redraw(folder: Path) -> str:
    """Draw the figures of one result; return "", or the reason of a failure, such as a table without a column."""
    try:
        redraw(folder, draw_figures, get_language())
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _is_report(file: Path) -> bool:
    """Return whether a file is a report: it names this package and its version, Markdown in its last line."""
    text = file.read_text(encoding="utf-8", errors="replace").strip()
    if file.suffix == ".md":
        return bool(re.search(r"^avatar_bench \d\S*\Z", text, re.MULTILINE))
    # pages of `export`, `predict` and `measure` are made of the same parts
    is_other = '<main id="main" class="checker"' in text or '<meta name="generator"' in text
    return not is_other and bool(re.search(r'<p class="soft">avatar_bench \d[^<\s]*</p>', text))


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
    environment.globals |= {"_": _, "inlined": figures.get, "slug": make_slugs()}
    return environment.get_template(template).render(content)


def make_slugs() -> Callable[..., str]:
    """Return a function that gives each name, of one part or several, an id of its own: letters, digits and dashes."""
    known: dict[tuple[str, ...], str] = {}

    def slug(*parts: str) -> str:
        plain = re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-") or "part"
        return known.setdefault(parts, plain if plain not in known.values() else f"{plain}-{len(known)}")

    return slug


def _collect_content(study: Study) -> dict[str, Any]:
    leaderboards, audited = build_leaderboards(study), provenance.find_audit(study)
    audit = Assessment.parse(audited.provenance["assessment"]).format() if audited else None
    marks = describe_marks(audited) if audited else []
    return {
        "title": _("Report on {folder}", folder=study.root.resolve().name),
        "question": _("Is this avatar a real photo, a drawing or AI-generated, and which model predicts it best?"),
        "classes": list(dict.fromkeys(name for __, saved in study.saved for name in saved.result.classes)),
        "answers": [format_headline(board) for board in leaderboards]
        or [_("No run was evaluated by blind_test: there is no answer yet.")],
        "boards": [build_leaderboard_table(board, study.styles) for board in leaderboards],
        "board_kinds": _list_kinds(leaderboards),
        "summaries": list(block_sections.build_summary_tables(study)),
        "alerts": list(find_alerts(study, leaderboards, audit)),
        "problems": provenance.build_problem_table(study),
        "warnings": provenance.build_warning_table(study),
        "count_charts": provenance.draw_count_charts(study),
        "split_tables": provenance.build_split_tables(study),
        "set_tables": list(provenance.build_set_tables(study)),
        "uses": provenance.describe_uses(study),
        "audit": audit,
        "visible_marks": [(text, shrink(file, *QUALITY_STEPS[0])) for text, file in marks],
        "comparisons": block_sections.build_sections(study, compares=True),
        "blocks": block_sections.build_sections(study, compares=False),
        "operating_points": {block.name: build_operating_point(study, block) for block in study.list_blocks()},
        "models": [(model.label, *study.styles[model.label].values()) for model in study.models],
        "model_pages": [_build_model_page(study, model) for model in study.models],
        "evaluated": provenance.build_model_table(study),
        "provenance": provenance.build_result_table(study),
        "version": avatar_bench.__version__,
    }


def _list_kinds(boards: list[Leaderboard]) -> list[str]:
    """Return the kinds of ranks and rows in the leaderboards that the page explains."""
    rows = [row for board in boards for row in board.rows]
    by_intervals = (board for board in boards if not board.is_tested and board.ranked_by == "accuracy")
    kinds = {
        "tested": any(board.is_tested for board in boards),
        "by_intervals": any(len(board.rows) > 1 for board in by_intervals),
        "guessing": any(row.is_guessing for row in rows),
        "unranked": any(row.model.kind != "run" and row.reason for row in rows),
    }
    return [kind for kind, is_there in kinds.items() if is_there]


def _build_model_page(study: Study, model: ReportedModel) -> dict[str, Any]:
    record, curves = model.record, _draw_curves(model)
    temperature, fit = record.temperature, TemperatureFit.parse(record.temperature_fit)
    facts = [
        (_("kind"), {"run": _("run"), "soup": _("soup")}.get(model.kind, _("ensemble"))),
        (_("backbone"), flatten_options(model.config).get("model.backbone") or record.model),
        (_("mode"), record.mode),
        (_("seed"), record.seed),
        (_("members"), ", ".join(_name_members(study, model))),
        (_("val macro-F1"), _format_fact(record.metrics.get("val/macro_f1"))),
        (_("temperature"), format_temperature(temperature, fit) if isinstance(temperature, int | float) else ""),
        (_("training time (s)"), _format_fact(record.train_seconds)),
        (_("passes per training step"), record.passes_per_step),
        (_("checkpoint, SHA-256"), model.checkpoint[:12]),
    ]
    shown = None
    if curves.is_file():
        text = _("Loss and metrics by epoch")
        alt = _("{what}, {model}.", what=text, model=model.label)
        shown = block_sections.ReportFigure(curves, alt, text, study.link(curves), None, model.label)
    return {
        "label": model.label,
        "look": study.styles[model.label],
        "facts": [(name, value) for name, value in facts if value not in (None, "")],
        "folder": study.link(model.folder),
        "links": [
            (file.name, study.link(file)) for name in _RUN_FILES if (file := find_table(model.folder / name)).is_file()
        ],
        "curves": shown,
        "metrics": block_sections.build_metric_table(
            f"metrics_{model.label}",
            _("All metrics of {model}", model=model.label),
            [saved.result for saved in model.results.values()],
            of_model=True,
        ),
        "evaluated_by": list(dict.fromkeys(block for __, block in model.results)),
    }


def _draw_curves(model: ReportedModel) -> Path:
    """Return the file of a run's training curves in the current language; draw it if training used another one."""
    file, language = model.folder / "curves.png", get_language()
    if not file.is_file() or model.config.get("lang", "en") == language:
        return file
    saved = model.folder / language / "curves.png"
    if not saved.is_file():
        saved.parent.mkdir(exist_ok=True)
        history = read_csv(model.folder / "metrics.csv")
        with atomic_write(saved) as part:
            curves = plots.draw_training_curves(history, model.record.best_epoch)
            part.write_bytes(plots.encode_png(curves))
    return saved


def _format_fact(value: Any) -> Any:
    return format_number(value) if isinstance(value, float) else value


def _name_members(study: Study, ensemble: ReportedModel) -> Iterator[str]:
    labels = {model.checkpoint: model.label for model in study.runs}
    for member in ensemble.members:
        yield f"{labels.get(member.checkpoint_sha256, member.run)} ({format_number(member.weight)})"


def _order_figures(content: dict[str, Any]) -> list[Path]:
    """Return the files of all figures, the most informative first: where space is short, the last become links.

    The order is: comparisons on the first set, the main figure of each block there, its other figures, other sets.
    """
    ranked = [(1, model_page["curves"].file) for model_page in content["model_pages"] if model_page["curves"]]
    # ranks of the main figure of a section, its other figures, and those on other sets
    for sections, ranks in ((content["comparisons"], (0, 0, 3)), (content["blocks"], (1, 2, 4))):
        for __, parts in sections:
            for index, part in enumerate(parts):
                for number, group in enumerate(part.figures.values()):
                    rank = ranks[2] if index else ranks[min(number, 1)]
                    ranked += [(rank, model_page.file) for model_page in group]
    return [file for __, file in sorted(ranked, key=lambda pair: pair[0])]
