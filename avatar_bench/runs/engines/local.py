"""Prediction in this process, and those that read images."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, ClassVar

from avatar_bench.errors import ConfigError
from avatar_bench.files.remote import is_remote
from avatar_bench.runs.engines import PredictionJob, RowCounts, report_interruption

if TYPE_CHECKING:
    import pandas as pd

    from avatar_bench.commands.predict import PredictConfig


@dataclass
class LocalEngine:
    """Prediction in this process."""

    writes_folder: ClassVar[bool] = False
    reported: ClassVar[tuple[str, ...]] = ("workers",)

    def check(self, settings: PredictConfig) -> None:
        """Raise ConfigError for remote files."""
        inputs = settings.input if isinstance(settings.input, list) else [settings.input]
        for name, path in [*(("input", source) for source in inputs), ("output", settings.output)]:
            if is_remote(path.removeprefix("@")):
                raise ConfigError(f"{name}={path}: remote files are for engine=ray", "add engine=ray")

    def write_rows(self, job: PredictionJob) -> RowCounts:
        """Write the missing rows and those of changed files."""
        from avatar_bench.console.progress import open_bar
        from avatar_bench.inference.prediction_writer import find_remaining, read_stamp
        from avatar_bench.runs.file_predictor import open_file_predictor

        settings, files = job.settings, job.files
        if any(map(is_remote, files)):
            raise ConfigError(f"input={settings.input} names remote files, for which there is engine=ray.")
        stamps = {} if settings.output == "-" else {file: read_stamp(file) for file in files}  # before any file is read
        predictor, notes = open_file_predictor(job.path, settings, len(files))
        draw = job.open_overlays(predictor.run) if job.open_overlays else None

        def predict_files(files: Sequence[str]) -> Generator[pd.DataFrame, None, None]:
            with closing(predictor.predict(files)) as tables:
                for table in tables:
                    if draw is not None:
                        draw(table)
                    yield table

        begun = None if settings.update else predict_files(files)
        first = list(islice(begun, 1)) if begun else []
        for note in [*notes, *predictor.load()]:  # a bad checkpoint fails before the output is opened
            print(note, file=sys.stderr)
        ok = errors = 0
        with (
            job.open_output(predictor, len(files), stamps) as rows,
            report_interruption(rows, settings.output),
        ):
            predictor.refuse_other_rows(rows.last)
            todo, again = find_remaining(files, [rows.path_of(file) for file in files], rows.kept, settings.batch_size)
            kept = len(files) - len(todo) + again
            with open_bar("predict", len(files), done=kept) as bar, closing(begun or predict_files(todo)) as others:
                for batch in chain(first, others):
                    batch, again = batch[again:], max(0, again - len(batch))
                    rows.add(batch)
                    bar.update(len(batch))
                    good = int((batch["status"] == "ok").sum())
                    ok, errors = ok + good, errors + len(batch) - good
        return RowCounts(ok, errors, kept, rows.bad, rows.outdated)
