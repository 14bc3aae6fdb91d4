"""Labels that look like misspelt names of another class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from avatar_bench.console.terminal import counted
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.file_names import listed, shown

RARER = 5  # times fewer images than the class that a misspelt label resembles, at least
SIMILAR = 0.85  # least ratio of difflib: one letter more or less, or several in a long name
LONG = 4  # letters from which on a name with one other letter is hardly another word
_ROWS = 5  # that are named


def misspelt_labels(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield each label that is rare and written almost like a more frequent class, with that class."""
    for label, count in sorted(counts.items()):
        likely = [other for other in counts if counts[other] >= RARER * count and _are_alike(label, other)]
        if likely:
            yield label, max(likely, key=lambda other: counts[other])


def spelling_warnings(dataset: Dataset, manifest: Path | None) -> list[str]:
    """Return a sentence for each label that looks misspelt, with its rows of the manifest or else its folders."""
    labels = dataset.frame["label"]
    counts = {str(label): int(n) for label, n in labels[labels != ""].value_counts().items()}
    said = []
    for label, other in misspelt_labels(counts):
        rows = np.flatnonzero(labels == label)
        if manifest:
            numbers = listed([str(row + 1) for row in rows], _ROWS)
            where = f"{shown(str(manifest))}, row{'s' * (len(rows) > 1)} {numbers}"
        else:
            paths = (Path(path).parts for path in dataset.frame["path"].iloc[rows])
            folders = dict.fromkeys(str(Path(*parts[: parts.index(label) + 1])) for parts in paths)
            where = listed([str(dataset.root / folder) for folder in folders], _ROWS)
        said.append(
            f"{where}: label {label!r} ({counted(counts[label], 'image')}) is a class of its own; "
            f"is {other!r} ({counts[other]}) meant?"
        )
    return said


def _are_alike(label: str, other: str) -> bool:
    """Return whether one name is probably the other with a typing error; names that differ in digits are not."""
    one, two = label.casefold(), other.casefold()
    if _without_digits(one) == _without_digits(two):
        return False
    if SequenceMatcher(None, one, two, autojunk=False).ratio() >= SIMILAR:
        return True
    differing = sum(a != b for a, b in zip(one, two, strict=False))
    swapped = differing == 2 and sorted(one) == sorted(two)
    return len(one) == len(two) >= LONG and (differing == 1 or swapped)


def _without_digits(name: str) -> str:
    return "".join(letter for letter in name if not letter.isdigit())
