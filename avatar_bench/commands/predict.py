"""predict: predict the class of image files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from avatar_bench.config.schema import PredictConfig
from avatar_bench.console.terminal import format_count
from avatar_bench.errors import ConfigError, UnreadableFilesError
from avatar_bench.files.output_folder import lock_output, prepare_output
from avatar_bench.files.remote import is_remote
from avatar_bench.inference.input_files import find_input_files
from avatar_bench.inference.prediction_writer import MAX_PAGE_IMAGES
from avatar_bench.reporting.prediction_outputs import find_writer
from avatar_bench.results.display import list_cautions
from avatar_bench.runs.engines import PredictionJob, make_engine
from avatar_bench.runs.record import RECORD, choose_run, is_imported

if TYPE_CHECKING:
    import pandas as pd

    from avatar_bench.runs.run import Run


def execute(settings: PredictConfig) -> None:
    """Write one row per file to `output`; raise UnreadableFilesError after the last row if any file failed."""
    for place in settings.input if isinstance(settings.input, list) else [settings.input]:
        if os.path.isfile(os.path.join(place, RECORD)):
            raise ConfigError(f"input={place} is a run, not a folder of images.", f"To predict with it: ckpt={place}")
    path = choose_run(settings.ckpt)
    own = is_imported(path)
    if own and (settings.runtime not in ("auto", "torch") or settings.precision not in ("auto", "32")):
        raise ConfigError(
            f"{path} is an imported detector, which has a runtime of its own.", "Remove runtime= and precision=."
        )
    engine, writer = make_engine(settings.engine), find_writer(settings.output)
    columns = settings.find_columns().values()
    for each in columns:
        each.open()
    has_folder = not is_remote(settings.output)
    if has_folder:
        prepare_output(settings.output, is_folder=engine.writes_folder)
        if not settings.update:  # which checks the columns
            writer.refuse_foreign_file(settings.output)
    if settings.explain is not None:
        prepare_output(os.path.join(settings.explain, "overlay"), "explain")
    files = find_input_files(settings.input)
    if writer.is_page and len(files) > MAX_PAGE_IMAGES:
        raise ConfigError(
            f"input={settings.input}: {len(files):,} files, but a page for review has at most {MAX_PAGE_IMAGES:,}.",
            "Choose some of them (input=@list.txt, with one path per line), or write a table: output=FILE.csv",
        )
    with lock_output(settings.output) if has_folder else nullcontext():
        job = PredictionJob(path, files, settings, writer.open, _open_overlays(settings.explain))
        ok, errors, kept, bad, outdated = engine.write_rows(job)
    counts = format_count(ok, "prediction"), format_count(errors, "file")
    summary = f"{settings.output}: {counts[0]}, {counts[1]} that could not be read"
    summary += f", {kept} rows kept from before" if kept else ""
    summary += f", {format_count(outdated, 'row')} of changed files replaced" if outdated else ""
    print(summary, file=sys.stderr if settings.output == "-" else sys.stdout)
    names = () if own else ("runtime", "precision", "threads", *engine.reported)
    how = " ".join(f"{name}={getattr(settings, name)}" for name in names) or "the imported detector"
    first, second, *further = list_cautions(columns)
    further += [note for each in columns for note in each.list_notes()]
    print(f"Computed with {how}.", f"{first} {second}", *further, sep="\n", file=sys.stderr)
    if errors + bad:
        raise UnreadableFilesError(
            f"{errors + bad} of {len(files)} files could not be read: see status and reason in the output."
        )


def _open_overlays(folder: str | None) -> Callable[[Run], Callable[[pd.DataFrame], None]] | None:
    """Return what opens the writer of overlays of a run; None without a folder for them."""
    if folder is None:
        return None
    from avatar_bench.reporting.grad_cam_overlays import OverlayWriter  # draws by matplotlib, which is slow to import

    return lambda run: OverlayWriter(run, Path(folder)).write
