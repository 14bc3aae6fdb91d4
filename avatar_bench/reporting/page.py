"""Page: all that is reported of a study, laid out for the templates, and written as HTML and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

import avatar_bench
from avatar_bench.files import html
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.reporting import block_sections, cautions, data_section, report_text
from avatar_bench.reporting.captions import caption
from avatar_bench.reporting.headline import headline
from avatar_bench.reporting.inline_images import BUDGET, Inlined, inline
from avatar_bench.reporting.leaderboard import Board, boards
from avatar_bench.reporting.number_format import number
from avatar_bench.reporting.page_links import Files, write_text
from avatar_bench.reporting.provenance import model_table, origin_table
from avatar_bench.reporting.ranking_tables import board_table, gain_tables, score_tables
from avatar_bench.reporting.saved_tables import Looks
from avatar_bench.reporting.study import Model, Study

LARGEST = 15_000_000  # bytes of the page
_LINK = 600  # bytes of what stands in place of a figure, at most
_RUN_FILES = ("config.yaml", "run.json", "split.csv", "metrics.csv")


def write_report(study: Study, page: Path, language: str, largest: int = LARGEST) -> str:
    """Write the page, of `largest` bytes at most, and a Markdown of the same name; give the answer in a sentence.

    Raises OutputError where the page is a folder, OSError where nothing can be written.
    """
    files = Files(page)
    files.check()
    page.parent.mkdir(parents=True, exist_ok=True)
    content = _content(study, files) | {"lang": language}
    write_text(page.with_suffix(".md"), _render(_markdown(), "report/report.md.jinja", content, {}))
    write_text(page, _html(content, largest))
    return str(content["answers"][0])


def _html(content: dict[str, Any], largest: int) -> str:
    """Render with figures; where that is too large, without the last of them, and then without long tables."""
    template = "report/report.html.jinja"
    figures = inline(_figures(content), min(BUDGET, largest // 2))
    for details in (True, False):
        content["details"] = details
        text = _render(html.web(), template, content, figures)
        over = len(text.encode()) - largest
        if over > 0:
            figures = _fewer(figures, over)
            text = _render(html.web(), template, content, figures)
        if len(text.encode()) <= largest:
            break
    return text


def _fewer(figures: dict[Path, Inlined], over: int) -> dict[Path, Inlined]:
    """Give the first of the figures, so that so many bytes are saved."""
    kept = dict(figures)
    while kept and over > 0:
        __, last = kept.popitem()
        over -= max(0, len(last.data) * 4 // 3 - _LINK)
    return kept


def _render(environment: Environment, template: str, content: dict[str, Any], figures: dict[Path, Inlined]) -> str:
    environment.globals |= {"_": _, "inlined": figures.get, "slug": Slugs(), "caption": caption}
    return environment.get_template(template).render(content)


def _markdown() -> Environment:
    environment = html.markdown()
    environment.filters["address"] = Markup  # quoted for a URL already
    return environment


class Slugs:
    """Give each name an id of letters, digits and dashes that no other name has."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __call__(self, *parts: str) -> str:
        """Give the id of a name, the same each time."""
        name = "\n".join(parts)
        if name not in self._known:
            plain = re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-") or "part"
            taken = self._known.values()
            self._known[name] = plain if plain not in taken else f"{plain}-{len(self._known)}"
        return self._known[name]


def _content(study: Study, files: Files) -> dict[str, Any]:
    found, looks = boards(study), _looks(study)
    tables = [board_table(board, looks) for board in found]
    return {
        "title": _("Report on {folder}", folder=study.root.resolve().name),
        "question": _("Is this avatar a real photo, a drawing, or AI-generated, and which model says so best?"),
        "classes": _classes(study),
        "answers": [headline(board) for board in found]
        or [_("No run was judged by blind_test: there is no answer yet.")],
        "boards": tables,
        "board_notes": _board_notes(found),
        "scores": score_tables(study, files, looks),
        "gains": gain_tables(study, files, looks),
        "alerts": cautions.alerts(study, found),
        "problems": cautions.problem_table(study),
        "warnings": cautions.warning_table(study),
        "cautions": report_text.cautions(),
        "count_charts": data_section.count_charts(study),
        "split_tables": data_section.split_tables(study),
        "set_tables": list(data_section.set_tables(study)),
        "audit": data_section.audit(study),
        "comparisons": block_sections.comparison_sections(study, files, looks),
        "blocks": block_sections.run_sections(study, files, looks),
        "models": [(model.label, *looks[model.label].values()) for model in study.models],
        "model_pages": [_model_page(study, model, files, looks[model.label]) for model in study.models],
        "methods": report_text.methods(),
        "judged": model_table(study),
        "origins": origin_table(study, files),
        "version": avatar_bench.__version__,
        "counts": {"runs": len(study.runs), "ensembles": len(study.models) - len(study.runs), "sets": study.sets},
    }


def _looks(study: Study) -> Looks:
    """Give each model the colour and marker that its recipe has wherever models stand side by side."""
    recipes = list(dict.fromkeys(model.recipe for model in study.models))
    places = {model.label: recipes.index(model.recipe) for model in study.models}
    return {label: {"color": plots.color(place), "marker": plots.marker(place)} for label, place in places.items()}


def _classes(study: Study) -> list[str]:
    return list(dict.fromkeys(name for __, saved in study.saved for name in saved.result.classes))


def _board_notes(found: list[Board]) -> list[str]:
    """Say once how the boards are to be read, for each way in which they were made."""
    notes = []
    if any(board.tested for board in found):
        notes.append(
            _(
                "Ranks are the range that resampled images give; models that share a letter are not significantly "
                "different by paired tests, after Holm's correction."
            )
        )
    if any(not board.tested and len(board.rows) > 1 for board in found):
        notes.append(
            _(
                "Where no paired test was made, ranks are those that overlapping intervals leave open: no test, and "
                "wider than one would be. First: avatar-bench evaluate ckpt=FOLDER block=significance"
            )
        )
    if any(row.guesses for board in found for row in board.rows):
        notes.append(
            _(
                "No better than guessing: the interval of balanced accuracy holds what guessing gives, one over the "
                "number of classes in the set, or lies below it."
            )
        )
    if any(row.reason for board in found for row in board.rows):
        notes.append(
            _(
                "Ensembles have no rank: they are made of the runs above, and no paired test sets them beside these. "
                "What each gains over a single run has an interval of its own in the table of what combining gains."
            )
        )
    return notes


def _model_page(study: Study, model: Model, files: Files, look: Mapping[str, str]) -> dict[str, Any]:
    record, curves = model.record, model.folder / "curves.png"
    facts = [
        (_("kind"), {"run": _("run"), "soup": _("soup")}.get(model.kind, _("ensemble"))),
        (_("backbone"), _named(model.config, "model", "backbone") or record.get("model")),
        (_("mode"), record.get("mode")),
        (_("seed"), record.get("seed")),
        (_("members"), ", ".join(_members(study, record))),
        (_("val macro-F1"), _plain((record.get("metrics") or {}).get("val/macro_f1"))),
        (_("temperature"), _plain(record.get("temperature"))),
        (_("trained in, seconds"), _plain(record.get("train_seconds"))),
        (_("passes a training step"), record.get("passes_per_step")),
        (_("checkpoint, SHA-256"), model.checkpoint[:12]),
    ]
    shown = None
    if curves.is_file():
        text = caption("run", "curves")
        alt = _("{what}, {model}.", what=text, model=model.label)
        shown = block_sections.Shown(curves, alt, text, files.link(curves), None, model.label)
    return {
        "label": model.label,
        "look": look,
        "facts": [(name, value) for name, value in facts if value not in (None, "")],
        "folder": files.link(model.folder),
        "links": [(name, files.link(model.folder / name)) for name in _RUN_FILES if (model.folder / name).is_file()],
        "curves": shown,
        "metrics": block_sections.metric_table(model),
        "judged": list(dict.fromkeys(block for __, block in model.results)),
    }


def _plain(value: Any) -> Any:
    return number(value) if isinstance(value, float) else value


def _named(config: dict[str, Any], group: str, key: str) -> Any:
    part = config.get(group)
    return part.get(key) if isinstance(part, dict) else None


def _members(study: Study, record: dict[str, Any]) -> Iterator[str]:
    """Name the members of an ensemble with their weights."""
    labels = {model.checkpoint: model.label for model in study.runs}
    members = record.get("members")
    for member in members if isinstance(members, list) else ():
        if isinstance(member, dict):
            label = labels.get(str(member.get("checkpoint_sha256")), str(member.get("run")))
            weight = member.get("weight")
            yield f"{label} ({number(weight)})" if isinstance(weight, float) else label


def _figures(content: dict[str, Any]) -> list[Path]:
    """Give the files of all figures, what says most first: where room is short the last become links.

    First the comparisons of the first set, then each block's main figure there, then the others, then other sets.
    """
    curves = [(1, one["curves"].file) for one in content["model_pages"] if one["curves"]]
    ranked = [*curves, *_ranked(content["comparisons"], 0, 3), *_ranked(content["blocks"], 1, 4)]
    return [file for __, file in sorted(ranked, key=lambda pair: pair[0])]


def _ranked(sections: Sequence[block_sections.Section], first: int, others: int) -> Iterator[tuple[int, Path]]:
    for section in sections:
        for place, part in enumerate(section.parts):
            for main, group in enumerate(part.figures.values()):
                rank = others if place else first if not main or not first else first + 1
                yield from ((rank, one.file) for one in group)
