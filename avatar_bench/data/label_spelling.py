"""Detection of labels that look like misspelt names of another class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from avatar_bench.console.terminal import format_count
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.file_names import format_name, format_names

MIN_COUNT_RATIO = 5  # images of the resembled class per image of the misspelt label, at least
MIN_SIMILARITY = 0.85  # difflib ratio: one letter more or less, or several in a long name
MIN_LONG_NAME = 4  # letters; shorter names that differ in one letter may be different words
_MAX_LISTED = 5  # rows or folders in a message


def find_misspelt_labels(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield each rare label that is spelt almost like a more frequent class, with that class."""
    for label, count in sorted(counts.items()):
        likely = [other for other in counts if counts[other] >= MIN_COUNT_RATIO * count and _are_alike(label, other)]
        if likely:
            yield label, max(likely, key=lambda other: counts[other])


def describe_misspelt_labels(dataset: Dataset, manifest: Path | None) -> list[str]:
    """Return a sentence per label that looks misspelt, with its manifest rows or its folders."""
    labels = dataset.frame["label"]
    counts = {str(label): int(n) for label, n in labels[labels != ""].value_counts().items()}
    sentences = []
    for label, other in find_misspelt_labels(counts):
        rows = np.flatnonzero(labels == label)
        if manifest:
            numbers = format_names([str(row + 1) for row in rows], _MAX_LISTED)
            where = f"{format_name(str(manifest))}, row{'s' * (len(rows) > 1)} {numbers}"
        else:
            paths = (Path(path).parts for path in dataset.frame["path"].iloc[rows])
            folders = dict.fromkeys(str(Path(*parts[: parts.index(label) + 1])) for parts in paths)
            where = format_names([str(dataset.root / folder) for folder in folders], _MAX_LISTED)
        sentences.append(
            f"{where}: label {label!r} ({format_count(counts[label], 'image')}) is a separate class; "
            f"did you mean {other!r} ({counts[other]})?"
        )
    return sentences


def _are_alike(label: str, other: str) -> bool:
    """Return whether one name is probably a typing error of the other; names that differ only in digits are not."""
    one, two = label.casefold(), other.casefold()
    if _strip_digits(one) == _strip_digits(two):
        return False
    if SequenceMatcher(None, one, two, autojunk=False).ratio() >= MIN_SIMILARITY:
        return True
    differing = sum(a != b for a, b in zip(one, two, strict=False))
    swapped = differing == 2 and sorted(one) == sorted(two)
    return len(one) == len(two) >= MIN_LONG_NAME and (differing == 1 or swapped)


def _strip_digits(name: str) -> str:
    return "".join(letter for letter in name if not letter.isdigit())
