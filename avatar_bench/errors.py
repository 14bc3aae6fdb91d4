"""Errors that a user can cause, each with its exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class AvatarBenchError(Exception):
    """Error of at most three lines: what is wrong, where, and what to do.

    Each argument is one line. The command prints them on stderr and exits with `exit_code`.
    """

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        text = "\n".join(lines)
        if "\nOriginal Traceback" in text:  # torch rebuilds a loader worker's error from its printed traceback
            text = text.rpartition(f"{type(self).__name__}: ")[2].strip()
            lines = tuple(text.split("\n"))
        super().__init__(text)
        self.lines = tuple(line.replace("\n", "\\n") for line in lines)  # file names may contain line breaks

    def __reduce__(self) -> tuple[type[AvatarBenchError], tuple[str, ...], dict[str, Any]]:
        return type(self), self.lines, self.__dict__


class ConfigError(AvatarBenchError):
    """A wrong option, value or combination of options."""

    exit_code = 2


class DataError(AvatarBenchError):
    """A missing, broken or unsuitable file or folder of images."""

    exit_code = 3


class UnreadableFilesError(DataError):
    """Image files without a prediction, while those of all others are written."""


class GuardError(DataError):
    """A condition that would invalidate the metrics, such as test images used in training."""


class BlockError(DataError):
    """A block that cannot be run on this run or data set; block=all leaves it out."""


class CheckpointError(AvatarBenchError):
    """A missing, damaged or foreign checkpoint or run folder."""

    exit_code = 4


class OutputError(AvatarBenchError):
    """A place that cannot be written: disk, permission or lock."""

    exit_code = 5


class DivergedError(AvatarBenchError):
    """A loss, weight or logit that is not finite; `rows` of `split` are the images of the batch with that loss.

    A smaller lr, or training without mixed precision, may help.
    """

    exit_code = 6
    split: str = "train"
    rows: Sequence[int] = ()


class RegressionError(AvatarBenchError):
    """A result that is significantly worse than the one given by against=."""

    exit_code = 7


def suggest_names(word: str, known: Iterable[str], otherwise: str = ".", prefix: str = "") -> str:
    """Return "; did you mean ...?" with the closest names, each after `prefix`, or `otherwise` if none is close."""
    matches = difflib.get_close_matches(word, sorted(set(known)), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(prefix + match for match in matches)}?" if matches else otherwise
