"""predict: predict the class of image files."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from avatar_bench.config.schema import PredictConfig
from avatar_bench.data.evidence.content_credentials import explain_unverified, read_trust
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.files.lock import lock_output, prepare_output
from avatar_bench.files.remote import is_remote
from avatar_bench.inference.input_files import find_input_files
from avatar_bench.inference.prediction_cautions import list_cautions
from avatar_bench.inference.prediction_parts import PredictionParts
from avatar_bench.inference.prediction_writer import PredictionWriter, open_writer
from avatar_bench.inference.resume import find_remaining, refuse_other_run
from avatar_bench.runs.record import check_run, choose_newest_run, is_imported

if TYPE_CHECKING:
    import pandas as pd

    from avatar_bench.runs.decisions import DecisionRule
    from avatar_bench.runs.run import Run
    from avatar_bench.serving.grad_cam_overlays import OverlayWriter

PAGE = ".html"  # ending of an output for review
MAX_PAGE_IMAGES = 2000  # of more, a browser is slow and a person reviews no more
NO_THRESHOLD = (
    "The score has no threshold, so that prediction and confidence are empty. "
    "Fit one on labelled images: avatar-bench calibrate"
)


def predict(cfg: DictConfig) -> None:
    """Write one row per file to `output`; raise DataError after the last row if any file failed."""
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, PredictConfig)
    path = Path(settings.ckpt) if settings.ckpt else choose_newest_run()
    check_run(path)  # fail before torch is loaded
    own = is_imported(path)
    if own and (settings.runtime not in ("auto", "torch") or settings.precision not in ("auto", "32")):
        raise ConfigError(
            f"{path} is an imported detector, which has a runtime of its own.", "Remove runtime= and precision=."
        )
    trust = read_trust(settings.evidence.trust)
    on_ray, has_folder = settings.engine.name == "ray", not is_remote(settings.output)
    if has_folder:
        prepare_output(settings.output, is_folder=on_ray)
    if settings.explain is not None:
        prepare_output(os.path.join(settings.explain, "overlay"), "explain")
    files = find_input_files(settings.input)
    if settings.output.lower().endswith(PAGE) and len(files) > MAX_PAGE_IMAGES:
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
        else:
            ok, errors, kept, bad = _write_rows(_open_run(path, settings, len(files)), files, settings, trust)
    summary = f"{settings.output}: {ok} predictions, {errors} files that could not be read"
    summary += f", {kept} rows kept from before" if kept else ""
    print(summary, file=sys.stderr if settings.output == "-" else sys.stdout)
    names = () if own else ("runtime", "precision", "threads", *(() if on_ray else ("workers",)))
    how = " ".join(f"{name}={getattr(settings, name)}" for name in names) or "the imported detector"
    first, second, *further = list_cautions(settings.evidence.enabled)
    print(f"Computed with {how}.", f"{first} {second}", *further, sep="\n", file=sys.stderr)
    if settings.evidence.enabled:
        for note in explain_unverified():
            print(note, file=sys.stderr)
    if errors + bad:
        raise DataError(f"{errors + bad} of {len(files)} files could not be read: see status and reason in the output.")


def _open_run(path: Path, settings: PredictConfig, n_files: int) -> Run:
    """Open the run, and store the choices of autotune in the settings."""
    import torch

    from avatar_bench.console.memory import retain_freed_memory
    from avatar_bench.inference.precision_autotune import count_workers, tune_inference
    from avatar_bench.runs.ensembles import open_run
    from avatar_bench.runs.run import set_threads
    from avatar_bench.runs.runtime_autotune import choose_runtime
    from avatar_bench.runs.view_choice import set_view

    def open_with(runtime: str) -> Run:
        options = {"accelerator": settings.accelerator, "runtime": runtime, "batch_size": settings.batch_size}
        return open_run(path, allow=frozenset(settings.allow), **options)

    # what the calibration was computed with, and the embeddings of training images
    if settings.target_error is not None or settings.costs is not None or settings.neighbours:
        settings.runtime, settings.precision = "torch", "32"
    retain_freed_memory()
    set_threads(settings.threads)
    run = open_with("torch" if settings.runtime == "auto" else settings.runtime)
    if settings.runtime == "auto":
        settings.runtime, settings.precision = choose_runtime(run, open_with, settings.precision, n_files)
        run = run if settings.runtime == "torch" else open_with(settings.runtime)
    set_view([run], settings.view.name, settings.view.classes)
    settings.precision = run.predictor.resolve_precision(settings.precision)
    if settings.threads is None and settings.runtime == "torch":  # an exported network uses all threads itself
        set_threads(tune_inference(run.predictor.device).threads)
    run.predictor.workers = count_workers() if settings.workers is None else settings.workers
    settings.threads, settings.workers = torch.get_num_threads(), run.predictor.workers
    return run


def _write_rows(run: Run, files: list[str], settings: PredictConfig, trust: str) -> tuple[int, int, int, int]:
    """Write the missing rows; return the counts of predictions, errors, earlier rows and errors among those."""
    from avatar_bench.inference.evidence_columns import add_evidence

    rule = _make_rule(run, settings)
    has_evidence = settings.evidence.enabled

    overlays = _open_overlays(run, settings.explain)

    def predict_files(files: list[str]) -> Generator[pd.DataFrame, None, None]:
        embedded = settings.neighbours
        with closing(run.predict_files(files, settings.calibrated, settings.precision, rule, embedded)) as tables:
            for table in tables:
                if overlays is not None:
                    overlays.write(table)
                yield add_evidence(table, run.name_class, trust) if has_evidence else table

    begun = None if settings.update else _start_now(predict_files(files))
    _load(run, settings)
    ok = errors = 0
    with (
        _open_output(run, settings, len(files), rule is not None) as rows,
        _report_interruption(rows, settings),
    ):
        _refuse_other_rows(run, rows, settings, trust, rule)
        todo, again = find_remaining(files, [rows.path_of(file) for file in files], rows.kept, settings.batch_size)
        kept = len(files) - len(todo) + again
        bar = tqdm(total=len(files), initial=kept, unit="image", file=sys.stderr, disable=not sys.stderr.isatty())
        with bar, closing(begun or predict_files(todo)) as batches:
            for batch in batches:
                batch, again = batch[again:], max(0, again - len(batch))
                rows.write(batch)
                bar.update(len(batch))
                good = int((batch["status"] == "ok").sum())
                ok, errors = ok + good, errors + len(batch) - good
    return ok, errors, kept, rows.bad


def _write_parts(path: Path, files: list[str], settings: PredictConfig, trust: str) -> tuple[int, int, int, int]:
    """Write the missing rows by Ray; return the counts of `_write_rows`."""
    from avatar_bench.runs.ray_prediction import Answering, connect_ray, predict_parts

    engine = settings.engine
    with connect_ray(engine.address) as resources:
        settings.threads = settings.threads or 1
        if resources.get("GPU") and settings.accelerator != "cpu" and settings.runtime == "auto":
            settings.runtime = "torch"
        run = _open_run(path, settings, len(files))
        rule = _make_rule(run, settings)
        _load(run, settings)
        parts = PredictionParts(settings.output, _list_columns(run, settings), settings.update)
        _refuse_other_rows(run, parts, settings, trust, rule)
        run.predictor.unload()  # actors load their own
        todo, _ = find_remaining(files, [parts.path_of(file) for file in files], parts.kept, 1)
        opened = {name: getattr(run, name) for name in ("allow", "accelerator", "runtime", "batch_size")}
        answering = Answering(
            *(path.absolute(), opened, run.view, settings.calibrated, settings.precision, settings.threads, rule),
            trust if settings.evidence.enabled else None,
        )
        with _report_interruption(parts, settings):
            if todo:
                predict_parts(run, answering, todo, parts, engine.actors, resources)
    ok, errors = parts.count_statuses()
    if ok + errors != len(parts.kept) + len(todo):
        raise DataError(
            f"{settings.output} has {ok + errors} rows, expected {len(parts.kept) + len(todo)}.",
            "Did another command write into it? Choose another output.",
        )
    return ok - len(parts.kept) + parts.bad, errors - parts.bad, len(files) - len(todo), parts.bad


def _load(run: Run, settings: PredictConfig) -> None:
    """Load the network, so that a bad checkpoint fails before the output is opened, and print what a user must know."""
    for note in run.predictor.load(settings.precision):
        print(note, file=sys.stderr)
    if "decisions" not in run.provides:
        print(NO_THRESHOLD, file=sys.stderr)


def _list_columns(run: Run, settings: PredictConfig) -> list[str]:
    """Return the names of the columns that are written."""
    from avatar_bench.data.evidence.evidence_rules import EVIDENCE_COLUMNS
    from avatar_bench.inference.prediction_table import DECISION_COLUMNS, list_prediction_columns

    decides = settings.target_error is not None or settings.costs is not None
    columns = [*list_prediction_columns(run.classes), *(DECISION_COLUMNS if decides else ())]
    return [*columns, *(EVIDENCE_COLUMNS if settings.evidence.enabled else ())]


def _refuse_other_rows(
    run: Run, rows: PredictionWriter | PredictionParts, settings: PredictConfig, trust: str, rule: DecisionRule | None
) -> None:
    """Raise ConfigError if the earlier rows are not those of this run and these options."""
    from avatar_bench.inference.evidence_columns import refuse_other_evidence

    refuse_other_run(run, rows.last, settings.calibrated, settings.precision, rule)
    if settings.evidence.enabled:
        refuse_other_evidence(rows.last, run.name_class, trust)


def _open_overlays(run: Run, folder: str | None) -> OverlayWriter | None:
    if folder is None:
        return None
    from avatar_bench.serving.grad_cam_overlays import OverlayWriter  # draws by matplotlib, which is slow to import

    return OverlayWriter(run, Path(folder))


def _open_output(run: Run, settings: PredictConfig, n: int, decides: bool) -> PredictionWriter:
    """Open the writer of a table, or of a page of `n` files, for which the training images may be embedded."""
    columns = _list_columns(run, settings)
    if not settings.output.lower().endswith(PAGE):
        return open_writer(settings.output, columns, settings.update)
    from avatar_bench.serving.review_page import PageContent, ReviewWriter

    first = settings.input[0] if isinstance(settings.input, list) else settings.input
    training = None
    if settings.neighbours:
        if "embeddings" not in run.predictor.provides:
            raise ConfigError(f"neighbours=true: {run.name} computes no embeddings.", "Remove neighbours=true.")
        training = run.dataset("train"), run.training().embeddings
    content = PageContent(
        name=os.path.basename(os.path.abspath(first)),
        run=run.name,
        classes=run.classes,
        n_files=n,
        language=settings.lang,
        target_error=settings.target_error,
        has_decisions=decides,
        has_evidence=settings.evidence.enabled,
        overlays=Path(settings.explain) if settings.explain else None,
        training=training,
    )
    return ReviewWriter(Path(settings.output), columns, content)


def _make_rule(run: Run, settings: PredictConfig) -> DecisionRule | None:
    """Return the rule of decisions that is asked for, and print what a user must know of it; None without decisions."""
    if settings.target_error is None and settings.costs is None:
        return None
    # not for every prediction: their statistics take as long to import as a third of all else
    from avatar_bench.runs.decisions import make_rule

    rule = make_rule(run, settings.target_error, settings.costs, settings.alpha, settings.per_class)
    for note in rule.notes if rule else ():
        print(note, file=sys.stderr)
    return rule


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
        if settings.output.lower().endswith(PAGE):
            print(f"{settings.output}: no page is written.", file=sys.stderr)
        else:
            then = "" if settings.output == "-" else "; continue with the same command and update=true"
            print(f"{settings.output}: {rows.count} rows are written{then}.", file=sys.stderr)
        raise
