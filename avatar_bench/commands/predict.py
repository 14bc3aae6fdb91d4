"""predict: predict the class of image files."""

from __future__ import annotations

import codecs
import glob
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from avatar_bench.config.schema import PredictConfig
from avatar_bench.data.evidence.content_credentials import explain_unverified, read_trust
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.files.lock import lock_output, prepare_output
from avatar_bench.inference.prediction_writer import PredictionWriter, open_writer
from avatar_bench.inference.resume import find_remaining, refuse_other_run
from avatar_bench.runs.record import check_run, choose_newest_run, is_imported

if TYPE_CHECKING:
    import pandas as pd

DISCLAIMER = (
    "A prediction means that an image resembles the training images of a class; it does not prove its origin. "
    "On sources other than those it was evaluated on, a network can be far less accurate."
)
EVIDENCE_CAUTION = (
    "Evidence is what a file says of itself: metadata can be forged or stripped, and a file without evidence may be of "
    "any class."
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
    prepare_output(settings.output)
    files = find_input_files(settings.input)
    with lock_output(settings.output):
        ok, errors, kept, bad = _write_rows(path, files, settings, trust)
    summary = f"{settings.output}: {ok} predictions, {errors} files that could not be read"
    summary += f", {kept} rows kept from before" if kept else ""
    print(summary, file=sys.stderr if settings.output == "-" else sys.stdout)
    names = () if own else ("runtime", "precision", "threads", "workers")
    how = " ".join(f"{name}={getattr(settings, name)}" for name in names) or "the imported detector"
    print(f"Computed with {how}.", DISCLAIMER, sep="\n", file=sys.stderr)
    if settings.evidence.enabled:
        print(EVIDENCE_CAUTION, *explain_unverified(), sep="\n", file=sys.stderr)
    if errors + bad:
        raise DataError(f"{errors + bad} of {len(files)} files could not be read: see status and reason in the output.")


def _write_rows(path: Path, files: list[str], settings: PredictConfig, trust: str) -> tuple[int, int, int, int]:
    """Write the missing rows; return the counts of predictions, errors, earlier rows and errors among those."""
    from avatar_bench.inference.evidence_columns import refuse_other_evidence
    from avatar_bench.runs.file_predictor import open_file_predictor

    predictor, notes = open_file_predictor(path, settings, len(files), trust)
    run = predictor.run
    begun = None if settings.update else _start_now(predictor.predict(files))
    for note in [*notes, *predictor.load()]:  # a bad checkpoint fails before the output is opened
        print(note, file=sys.stderr)
    ok = errors = 0
    with (
        open_writer(settings.output, predictor.columns, settings.update) as rows,
        _report_interruption(rows, settings),
    ):
        refuse_other_run(run, rows.last, settings.calibrated, settings.precision, predictor.rule)
        if settings.evidence.enabled:
            refuse_other_evidence(rows.last, run.name_class, trust)
        todo, again = find_remaining(files, [rows.path_of(file) for file in files], rows.kept, settings.batch_size)
        kept = len(files) - len(todo) + again
        bar = tqdm(total=len(files), initial=kept, unit="image", file=sys.stderr, disable=not sys.stderr.isatty())
        with bar, closing(begun or predictor.predict(todo)) as batches:
            for batch in batches:
                batch, again = batch[again:], max(0, again - len(batch))
                rows.write(batch)
                bar.update(len(batch))
                good = int((batch["status"] == "ok").sum())
                ok, errors = ok + good, errors + len(batch) - good
    return ok, errors, kept, rows.bad


def _start_now(batches: Generator[pd.DataFrame, None, None]) -> Generator[pd.DataFrame, None, None]:
    """Return the same batches after computing the first one."""
    first = list(islice(batches, 1))

    def all_of_them() -> Generator[pd.DataFrame, None, None]:
        with closing(batches):
            yield from first
            yield from batches

    return all_of_them()


@contextmanager
def _report_interruption(rows: PredictionWriter, settings: PredictConfig) -> Iterator[None]:
    """Print how many rows are written if the work is interrupted."""
    try:
        yield
    except ConfigError:  # nothing was written
        raise
    except BaseException:
        then = "" if settings.output == "-" else "; continue with the same command and update=true"
        print(f"{settings.output}: {rows.count} rows are written{then}.", file=sys.stderr)
        raise


def find_input_files(text: str) -> list[str]:
    """Return the files that `input` names: a file, a folder (recursive, sorted), a glob, @list.txt, or - (stdin).

    An existing path is taken literally. Raises DataError if nothing is found.
    """
    if text == "-":
        return _parse_paths(sys.stdin.buffer.read(), "standard input")
    path = Path(text)
    if path.is_dir():
        found = list(_walk_folder(text))
        if not found:
            raise DataError(f"input={text}: the folder contains no files.", "Expected images in it or below it.")
        return found
    if path.exists():
        return [text]
    if text.startswith("@"):
        try:
            return _parse_paths(Path(text[1:]).read_bytes(), text[1:])
        except OSError as error:
            raise DataError(f"input={text}: {error.strerror}.", "Expected @FILE with one path per line.") from error
    found = sorted(file for file in glob.glob(text, recursive=True) if os.path.isfile(file))
    if not found:
        raise DataError(
            f"input={text} does not exist and matches no file.", "Expected a file, folder, glob, @FILE or -."
        )
    return found


def _walk_folder(folder: str) -> Iterator[str]:
    """Yield the files of a folder in sorted order, without hidden ones; links to folders are not followed.

    A folder that cannot be read is yielded itself, so that it gets a row.
    """
    closed: list[str] = []
    for place, folders, files in os.walk(str(Path(folder)), onerror=lambda error: closed.append(error.filename)):
        yield from closed
        closed.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = "" if place == "." else place
        yield from (os.path.join(inside, name) for name in sorted(files) if not name.startswith("."))
    yield from closed


def _parse_paths(content: bytes, name: str) -> list[str]:
    """Return the paths of a list, one per line or separated by zeros as in `find -print0`."""
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\0" if b"\0" in content else b"\n")
    paths = [os.fsdecode(path.rstrip(b"\r\n") if b"\0" not in content else path) for path in lines]
    paths = [path for path in paths if path]
    if not paths:
        raise DataError(f"{name} contains no paths.", "Expected one path per line.")
    return paths
