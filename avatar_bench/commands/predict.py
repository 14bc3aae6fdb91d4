"""predict: predict the class of image files."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from avatar_bench.config.schema import PredictConfig
from avatar_bench.console.progress import open_bar
from avatar_bench.console.terminal import format_count
from avatar_bench.data.evidence.content_credentials import explain_unverified, read_trust
from avatar_bench.errors import ConfigError, DataError, UnreadableFilesError
from avatar_bench.files.lock import lock_output, prepare_output
from avatar_bench.files.remote import is_remote
from avatar_bench.inference.file_stamps import Stamp, read_stamp
from avatar_bench.inference.input_files import find_input_files
from avatar_bench.inference.prediction_parts import PredictionParts
from avatar_bench.inference.prediction_writer import PredictionWriter, open_writer, refuse_foreign_file
from avatar_bench.inference.resume import find_remaining, refuse_other_run
from avatar_bench.results.prediction_cautions import list_cautions
from avatar_bench.runs.record import RECORD, is_imported
from avatar_bench.runs.run_choice import choose_run

if TYPE_CHECKING:
    import pandas as pd

    from avatar_bench.reporting.grad_cam_overlays import OverlayWriter
    from avatar_bench.runs.file_predictor import FilePredictor
    from avatar_bench.runs.run import Run

PAGE = ".html"  # ending of an output for review
MAX_PAGE_IMAGES = 2000  # of more, a browser is slow and a person reviews no more


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
    trust = read_trust(settings.evidence.trust)
    on_ray, has_folder = settings.engine.name == "ray", not is_remote(settings.output)
    if has_folder:
        prepare_output(settings.output, is_folder=on_ray)
        if not settings.update:  # which checks the columns
            refuse_foreign_file(settings.output)
    if settings.explain is not None:
        prepare_output(os.path.join(settings.explain, "overlay"), "explain")
    files = find_input_files(settings.input)
    if _is_page(settings.output) and len(files) > MAX_PAGE_IMAGES:
        raise ConfigError(
            f"input={settings.input}: {len(files):,} files, but a page for review has at most {MAX_PAGE_IMAGES:,}.",
            "Choose some of them (input=@list.txt, with one path per line), or write a table: output=FILE.csv",
        )
    if not on_ray and any(map(is_remote, files)):
        raise ConfigError(f"input={settings.input} names remote files, for which there is engine=ray.")
    with ExitStack() as stack:
        if has_folder:
            stack.enter_context(lock_output(settings.output))
        if on_ray:
            ok, errors, kept, bad = _write_parts(path, files, settings, trust)
            outdated = 0
        else:
            ok, errors, kept, bad, outdated = _write_rows(path, files, settings, trust)
    counts = format_count(ok, "prediction"), format_count(errors, "file")
    summary = f"{settings.output}: {counts[0]}, {counts[1]} that could not be read"
    summary += f", {kept} rows kept from before" if kept else ""
    summary += f", {format_count(outdated, 'row')} of changed files replaced" if outdated else ""
    print(summary, file=sys.stderr if settings.output == "-" else sys.stdout)
    names = () if own else ("runtime", "precision", "threads", *(() if on_ray else ("workers",)))
    how = " ".join(f"{name}={getattr(settings, name)}" for name in names) or "the imported detector"
    first, second, *further = list_cautions(settings.evidence.enabled)
    print(f"Computed with {how}.", f"{first} {second}", *further, sep="\n", file=sys.stderr)
    if settings.evidence.enabled:
        for note in explain_unverified():
            print(note, file=sys.stderr)
    if errors + bad:
        raise UnreadableFilesError(
            f"{errors + bad} of {len(files)} files could not be read: see status and reason in the output."
        )


def _write_rows(path: Path, files: list[str], settings: PredictConfig, trust: str) -> tuple[int, int, int, int, int]:
    """Write the missing rows and those of changed files.

    Return the counts of predictions, of errors, of earlier rows, of errors among those, and of replaced rows.
    """
    from avatar_bench.runs.file_predictor import open_file_predictor

    stamps = {} if settings.output == "-" else {file: read_stamp(file) for file in files}  # before any file is read
    predictor, notes = open_file_predictor(path, settings, len(files), trust)
    overlays = _open_overlays(predictor.run, settings.explain)

    def predict_files(files: list[str]) -> Generator[pd.DataFrame, None, None]:
        with closing(predictor.predict(files)) as tables:
            for table in tables:
                if overlays is not None:
                    overlays.write(table)
                yield table

    begun = None if settings.update else _start_now(predict_files(files))
    for note in [*notes, *predictor.load()]:  # a bad checkpoint fails before the output is opened
        print(note, file=sys.stderr)
    ok = errors = 0
    with (
        _open_output(predictor, settings, len(files), stamps) as rows,
        _report_interruption(rows, settings),
    ):
        _refuse_other_rows(predictor, rows)
        todo, again = find_remaining(files, [rows.path_of(file) for file in files], rows.kept, settings.batch_size)
        kept = len(files) - len(todo) + again
        with open_bar("predict", len(files), done=kept) as bar, closing(begun or predict_files(todo)) as batches:
            for batch in batches:
                batch, again = batch[again:], max(0, again - len(batch))
                rows.add(batch)
                bar.update(len(batch))
                good = int((batch["status"] == "ok").sum())
                ok, errors = ok + good, errors + len(batch) - good
    return ok, errors, kept, rows.bad, rows.outdated


def _write_parts(path: Path, files: list[str], settings: PredictConfig, trust: str) -> tuple[int, int, int, int]:
    """Write the missing rows by Ray; return the counts of `_write_rows`."""
    from avatar_bench.runs.file_predictor import open_file_predictor
    from avatar_bench.runs.ray_prediction import Answering, connect_ray, predict_parts

    engine = settings.engine
    with connect_ray(engine.address) as resources:
        settings.threads = settings.threads or 1
        if resources.get("GPU") and settings.accelerator != "cpu" and settings.runtime == "auto":
            settings.runtime = "torch"
        predictor, notes = open_file_predictor(path, settings, len(files), trust)
        run = predictor.run
        for note in [*notes, *predictor.load()]:
            print(note, file=sys.stderr)
        parts = PredictionParts(settings.output, predictor.columns, settings.update)
        _refuse_other_rows(predictor, parts)
        run.predictor.unload()  # actors load their own
        todo, _ = find_remaining(files, [parts.path_of(file) for file in files], parts.kept, 1)
        with _report_interruption(parts, settings):
            if todo:
                predict_parts(run, Answering.like(path, predictor), todo, parts, engine.actors, resources)
    ok, errors = parts.count_statuses()
    if ok + errors != len(parts.kept) + len(todo):
        raise DataError(
            f"{settings.output} has {ok + errors} rows, expected {len(parts.kept) + len(todo)}.",
            "Did another command write into it? Choose another output.",
        )
    return ok - len(parts.kept) + parts.bad, errors - parts.bad, len(files) - len(todo), parts.bad


def _refuse_other_rows(predictor: FilePredictor, rows: PredictionWriter | PredictionParts) -> None:
    """Raise ConfigError if the earlier rows are not those of this run and these options."""
    from avatar_bench.inference.evidence_columns import refuse_other_evidence

    settings, run = predictor.settings, predictor.run
    refuse_other_run(run, rows.last, settings.calibrated, settings.precision, predictor.rule)
    if settings.evidence.enabled:
        refuse_other_evidence(rows.last, run.name_class, predictor.trust)


def _is_page(output: str) -> bool:
    return output.lower().endswith(PAGE)


def _open_overlays(run: Run, folder: str | None) -> OverlayWriter | None:
    if folder is None:
        return None
    from avatar_bench.reporting.grad_cam_overlays import OverlayWriter  # draws by matplotlib, which is slow to import

    return OverlayWriter(run, Path(folder))


def _open_output(
    predictor: FilePredictor, settings: PredictConfig, n: int, stamps: Mapping[str, Stamp | None]
) -> PredictionWriter:
    """Open the writer of a table, or of a page of `n` files, for which the training images may be embedded."""
    run, columns = predictor.run, predictor.columns
    if not _is_page(settings.output):
        return open_writer(settings.output, columns, settings.update, stamps)
    from avatar_bench.i18n import use_language
    from avatar_bench.reporting.model_accuracy import describe_model
    from avatar_bench.reporting.review_page import PageContent, ReviewWriter

    first = settings.input[0] if isinstance(settings.input, list) else settings.input
    training = None
    if settings.neighbours:
        if "embeddings" not in run.predictor.provides:
            raise ConfigError(f"neighbours=true: {run.name} computes no embeddings.", "Remove neighbours=true.")
        training = run.dataset("train"), run.training().embeddings
    with use_language(settings.lang):
        model = describe_model(run, predictor.is_calibrated)
    content = PageContent(
        name=os.path.basename(os.path.abspath(first)),
        run=run.name,
        classes=run.classes,
        n_files=n,
        language=settings.lang,
        model=model,
        target_error=settings.target_error,
        has_decisions=predictor.rule is not None,
        has_evidence=settings.evidence.enabled,
        overlays=Path(settings.explain) if settings.explain else None,
        training=training,
    )
    return ReviewWriter(Path(settings.output), columns, content)


def _start_now(batches: Generator[pd.DataFrame, None, None]) -> Generator[pd.DataFrame, None, None]:
    """Return the same batches after computing the first one."""
    first = list(islice(batches, 1))

    def all_of_them() -> Generator[pd.DataFrame, None, None]:
        with closing(batches):
            yield from first
            yield from batches

    return all_of_them()


@contextmanager
def _report_interruption(rows: PredictionWriter | PredictionParts, settings: PredictConfig) -> Iterator[None]:
    """Print how many rows are written if the work is interrupted."""
    try:
        yield
    except ConfigError:  # nothing was written
        raise
    except BaseException:
        if _is_page(settings.output):
            print(f"{settings.output}: no page is written.", file=sys.stderr)
        else:
            then = "" if settings.output == "-" else "; continue with the same command and update=true"
            print(f"{settings.output}: {rows.count} rows are written{then}.", file=sys.stderr)
        raise
