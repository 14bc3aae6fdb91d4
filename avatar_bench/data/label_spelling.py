"""Detection of labels that look like misspelt names of another class."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from avatar_bench.console.terminal import format_name
from avatar_bench.data.dataset import Dataset
from avatar_bench.results.reasons import Reason

MIN_COUNT_RATIO = 5  # images of the resembled class per image of the misspelt label, at least
MIN_COUNT_RATIO_OF_LONG_NAMES = 2  # which are seldom alike by chance
_LONG_NAME = 6  # letters
MIN_SIMILARITY = 0.85  # difflib ratio: one letter more or less, or several in a long name
MIN_LONG_NAME = 4  # letters; shorter names that differ in one letter may be different words
_MAX_LISTED = 5  # rows or folders in a warning
# joiners, fillers and variation selectors, which Unicode calls letters or marks; others are not printable
_INVISIBLE = re.compile("[\\u034f\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u3164\\ufe00-\\ufe0f\\uffa0]")


def find_misspelt_labels(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield each rare label that is spelt almost like a more frequent class, with that class."""
    for label, count in sorted(counts.items()):
        ratio = MIN_COUNT_RATIO_OF_LONG_NAMES if len(label) >= _LONG_NAME else MIN_COUNT_RATIO
        likely = [other for other in counts if counts[other] >= ratio * count and _are_alike(label, other)]
        if likely:
            yield label, max(likely, key=lambda other: counts[other])


def describe_misspelt_labels(dataset: Dataset, manifest: Path | None) -> list[Reason]:
    """Return a warning per label that looks misspelt, with its manifest rows or its folders."""
    labels = dataset.frame["label"]
    counts = {str(label): int(n) for label, n in labels[labels != ""].value_counts().items()}
    reasons = []
    for label, other in find_misspelt_labels(counts):
        rows = np.flatnonzero(labels == label)
        where: Any
        if manifest:
            numbers = _shorten([int(row) + 1 for row in rows])
            where = Reason("manifest_rows", file=format_name(str(manifest)), rows=numbers, n=len(rows))
        else:
            paths = (Path(path).parts for path in dataset.frame["path"].iloc[rows])
            folders = dict.fromkeys(Path(*parts[: parts.index(label) + 1]) for parts in paths)
            where = _shorten([format_name(str(dataset.root / folder)) for folder in folders])
        named = {"where": where, "label": label, "other": other}
        reasons.append(Reason("misspelt_label", **named, n=counts[label], others=counts[other]))
    return reasons


def fold_spelling(label: str) -> str:
    """Return a label without what is seldom meant: its case, its normal form of Unicode and invisible characters."""
    return _INVISIBLE.sub("", unicodedata.normalize("NFC", label).casefold())


def _shorten(places: list[Any]) -> list[Any]:
    return [*places[:_MAX_LISTED], "..."] if len(places) > _MAX_LISTED else places


def _are_alike(label: str, other: str) -> bool:
    """Return whether one name is probably a typing error of the other; names that differ only in digits are not."""
    first, second = label.casefold(), other.casefold()
    if _strip_digits(first) == _strip_digits(second):
        return False
    if SequenceMatcher(None, first, second, autojunk=False).ratio() >= MIN_SIMILARITY:
        return True
    differing = sum(a != b for a, b in zip(first, second, strict=False))
    swapped = differing == 2 and sorted(first) == sorted(second)
    return len(first) == len(second) >= MIN_LONG_NAME and (differing == 1 or swapped)


def _strip_digits(name: str) -> str:
    return "".join(letter for letter in name if not letter.isdigit())
