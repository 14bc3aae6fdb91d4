"""The errors that a user can cause, each with the exit code of its kind."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class AvatarBenchError(Exception):
    """Say what went wrong, where, what was expected and what to do, in at most three lines.

    The lines are given as separate arguments; `__main__` prints them on stderr and ends with `exit_code`.
    """

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        text = "\n".join(lines)
        if "\nOriginal Traceback" in text:  # torch rebuilds a loader worker's error from its printed traceback
            text = text.rpartition(f"{type(self).__name__}: ")[2].strip()
            lines = tuple(text.split("\n"))
        super().__init__(text)
        self.lines = tuple(line.replace("\n", "\\n") for line in lines)  # a name may hold one

    def __reduce__(self) -> tuple[type[AvatarBenchError], tuple[str, ...]]:
        return type(self), self.lines


class ConfigError(AvatarBenchError):
    """A wrong option, value or combination of options."""

    exit_code = 2


class DataError(AvatarBenchError):
    """A missing, broken or unsuitable file or folder of images."""

    exit_code = 3


class GuardError(DataError):
    """A condition under which every figure would be void."""


class BlockError(DataError):
    """A block that this run or set cannot be put through; block=all leaves it out."""


class CheckpointError(AvatarBenchError):
    """A missing, damaged or foreign checkpoint or run folder."""

    exit_code = 4


class OutputError(AvatarBenchError):
    """A place that cannot be written: disk, permission or lock."""

    exit_code = 5


class DivergedError(AvatarBenchError):
    """A loss, weight or logit that is not finite; `rows` of `split` are the batch of images that gave the loss."""

    exit_code = 6
    split: str = "train"
    rows: Sequence[int] = ()


class RegressionError(AvatarBenchError):
    """A result that is significantly worse than the one given by against=."""

    exit_code = 7


def suggest_names(word: str, known: Iterable[str]) -> str:
    """Give "did you mean ...?" for the nearest of the known names, or an empty string."""
    near = difflib.get_close_matches(word, sorted(set(known)), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else ""
