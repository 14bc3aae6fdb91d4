"""report: write one page from the saved results of several runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from avatar_bench.config.options import option, path_option
from avatar_bench.config.schema import ADDRESSES, LANGUAGE, ViewConfig, end_in
from avatar_bench.console.terminal import format_count, print_line
from avatar_bench.errors import OutputError
from avatar_bench.i18n import use_language
from avatar_bench.runs.record import locate_run


@dataclass
class ReportConfig:
    runs: str = path_option(f"a folder of runs, or one run{ADDRESSES}", "runs", is_main=True)
    out: str | None = path_option("the page; null: report.html in that folder", **end_in(".html", ".htm"))
    lang: str = option("en", help="language of the report and its figures", **LANGUAGE)
    view: ViewConfig = field(default_factory=ViewConfig)


def execute(settings: ReportConfig) -> Path:
    """Write one self-contained page on the runs below a folder, print a one-line summary, and return the page.

    Raises DataError if the folder contains no evaluated run, OutputError if the page cannot be written.
    """
    from avatar_bench.reporting.page import write_report
    from avatar_bench.reporting.study import read_study

    root = locate_run(settings.runs, "runs").expanduser()
    page = Path(settings.out).expanduser() if settings.out else root / "report.html"
    with use_language(settings.lang):
        study = read_study(root, settings.view.name, settings.view.classes)
        try:
            answer = write_report(study, page, settings.lang)
        except OSError as error:
            reason = f"{page} cannot be written: {error.strerror or error}."
            raise OutputError(reason, "Choose another file: out=FILE.html") from error
    size = page.stat().st_size / 1e6
    left = f"{format_count(len(study.problems), 'item')} unfinished, missing or damaged, listed there"
    counts = f"{format_count(len(study.runs), 'run')}, {left if study.problems else 'nothing missing'}"
    print_line(f"{page}: {size:.1f} MB, {counts}; {answer}")
    return page
