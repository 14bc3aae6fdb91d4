"""predict: a verdict on each picture file."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from avatar_bench.commands._rows import make_room, open_rows
from avatar_bench.config import PredictConfig
from avatar_bench.errors import DataError
from avatar_bench.records import check_run, newest_run

if TYPE_CHECKING:
    from avatar_bench.runs import Run

CAUTION = (
    "A verdict tells which class's training pictures a picture looks like; it is no proof of where it comes from. "
    "On other sources than those it was measured on, a network can be wrong far more often."
)
CHUNK = 4096  # files handed to one set of workers: what is held in memory does not grow with the input


def predict(cfg: DictConfig) -> None:
    """Write one row a file to `output`; raise DataError after the last row where any file failed."""
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, PredictConfig)
    path = Path(settings.ckpt) if settings.ckpt else _newest()
    check_run(path)  # a mistake shows before torch has loaded
    make_room(settings.output)
    files = input_files(settings.input)
    ok, errors, kept = _write(_open(path, settings), files, settings)
    told = f"{settings.output}: {ok} verdicts, {errors} files that could not be used"
    told += f", {kept} rows kept from before" if kept else ""
    print(told, file=sys.stderr if settings.output == "-" else sys.stdout)
    print(CAUTION, file=sys.stderr)
    if errors:
        raise DataError(f"{errors} of {len(files)} files could not be used: see status and reason in the output.")


def _open(path: Path, settings: PredictConfig) -> Run:
    from avatar_bench.ensembles import open_run
    from avatar_bench.runs import set_threads

    set_threads(settings.threads)
    return open_run(path, accelerator=settings.accelerator, workers=settings.workers, batch_size=settings.batch_size)


def _write(run: Run, files: list[str], settings: PredictConfig) -> tuple[int, int, int]:
    """Write the rows that the output lacks; give the numbers of verdicts, of errors and of rows that were there."""
    from avatar_bench.verdicts import verdict_columns

    run.wake()  # a bad checkpoint shows before the output is touched
    ok = errors = 0
    with open_rows(settings.output, verdict_columns(run.classes), settings.update) as rows:
        todo = [file for file in files if file not in rows.done]
        bar = tqdm(total=len(todo), unit="image", file=sys.stderr, disable=not sys.stderr.isatty())
        for start in range(0, len(todo), CHUNK):
            for batch in run.verdicts(todo[start : start + CHUNK], settings.calibrated, settings.precision):
                rows.write(batch)
                bar.update(len(batch))
                good = int((batch["status"] == "ok").sum())
                ok, errors = ok + good, errors + len(batch) - good
        bar.close()
    return ok, errors, len(files) - len(todo)


def input_files(text: str) -> list[str]:
    """Give the files that `input` names: a file, a folder (recursive, sorted), a glob, @list.txt, or - (stdin).

    An existing path is taken literally. Raises DataError where nothing is found.
    """
    if text == "-":
        return _lines(sys.stdin, "standard input")
    path = Path(text)
    if path.is_dir():
        found = [str(file) for file in _walk(path)]
        if not found:
            raise DataError(f"input={text}: the folder holds no files.", "Expected pictures in it or below it.")
        return found
    if path.exists():
        return [text]
    if text.startswith("@"):
        try:
            with open(text[1:], encoding="utf-8", errors="surrogateescape") as stream:
                return _lines(stream, text[1:])
        except OSError as error:
            raise DataError(f"input={text}: {error.strerror}.", "Expected @FILE with one path a line.") from error
    found = sorted(file for file in glob.glob(text, recursive=True) if os.path.isfile(file))
    if not found:
        raise DataError(
            f"input={text} does not exist, and matches no file.", "Expected a file, folder, glob, @FILE or -."
        )
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Give the files of a folder in sorted order, without hidden ones; links to folders are not followed."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(files) if not name.startswith("."))


def _lines(stream: TextIO, name: str) -> list[str]:
    paths = [line.rstrip("\r\n") for line in stream]
    paths = [path for path in paths if path]
    if not paths:
        raise DataError(f"{name} holds no paths.", "Expected one path a line.")
    return paths


def _newest() -> Path:
    newest = newest_run(Path("runs"))
    print(f"ckpt={newest} (the newest run)", file=sys.stderr)
    return newest
