"""report: write one page, or the tables of a paper, from the saved results of several runs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from avatar_bench.config.options import option, path_option
from avatar_bench.config.schema import ADDRESSES, LANGUAGE, ViewConfig, choose, end_in
from avatar_bench.console.terminal import print_line
from avatar_bench.errors import ConfigError, OutputError
from avatar_bench.i18n import _, ngettext, use_language
from avatar_bench.metrics.units import NEW_SOURCES, THESE_IMAGES, THESE_SOURCES
from avatar_bench.runs.record import locate_run

_POPULATIONS = {name.replace(" ", "_"): name for name in (NEW_SOURCES, THESE_SOURCES, THESE_IMAGES)}


@dataclass
class ReportConfig:
    runs: str = path_option(f"a folder of runs, or one run{ADDRESSES}", "runs", is_main=True)
    out: str | None = path_option(
        "the file; null: report.html or .tex in that folder", **end_in(".html", ".htm", ".tex")
    )
    format: str = option("html", help="the page, or tables of a paper", **choose("html", "latex"))
    metrics: list[str] = option([], help="of format=latex: names of metrics; []: those of the leaderboard")
    population: str | None = option(
        None, help="of format=latex; null: what each metric speaks for", **choose(*_POPULATIONS)
    )
    lang: str = option("en", help="language of the report and its figures", **LANGUAGE)
    view: ViewConfig = field(default_factory=ViewConfig)


def execute(settings: ReportConfig) -> Path:
    """Write one self-contained page, or tables, on the runs below a folder, and return the file; print a summary.

    Raises DataError if the folder contains no evaluated run, ConfigError for an unknown metric, OutputError if the file
    cannot be written.
    """
    from avatar_bench.reporting.leaderboard import write_tables
    from avatar_bench.reporting.page import write_report
    from avatar_bench.reporting.study import read_study

    root, is_latex = locate_run(settings.runs, "runs").expanduser(), settings.format == "latex"
    file = Path(settings.out).expanduser() if settings.out else root / ("report.tex" if is_latex else "report.html")
    if is_latex != (file.suffix.lower() == ".tex"):
        raise ConfigError(f"out={file} does not fit format={settings.format}.", "Use both: format=latex out=FILE.tex")
    with use_language(settings.lang):
        study = read_study(root, settings.view.name, settings.view.classes)
        try:
            if is_latex:
                population = _POPULATIONS.get(settings.population or "")
                n = write_tables(study, file, _repeat(settings), settings.metrics, population)
                size, answer = ngettext("{n} table", "{n} tables", n), ""
            else:
                answer = f"; {write_report(study, file, settings.lang)}"
                size = f"{file.stat().st_size / 1e6:.1f} MB"
        except OSError as error:
            reason = f"{file} cannot be written: {error.strerror or error}."
            raise OutputError(reason, f"Choose another file: out=FILE{file.suffix}") from error
        runs, left = ngettext("{n} run", "{n} runs", len(study.runs)), _("nothing missing")
        if n_problems := len(study.problems):
            left = ngettext(
                "{n} item unfinished, missing or damaged", "{n} items unfinished, missing or damaged", n_problems
            )
    print_line(f"{file}: {size}, {runs}, {left}{answer}")
    return file


def _repeat(settings: ReportConfig) -> str:
    """Return the command that makes the same tables."""
    options = {"metrics": settings.metrics and f"[{','.join(settings.metrics)}]", "population": settings.population}
    stated = [f"{name}={text}" for name, text in options.items() if text]
    return shlex.join(["avatar-bench", "report", f"runs={settings.runs}", "format=latex", *stated])
