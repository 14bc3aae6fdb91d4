"""The audit of a data set: what is measured of its images, the tables by class, and the verdict in words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from avatar_bench.audit.assessment import Assessment
from avatar_bench.audit.content_credentials import HINTS, says_generated
from avatar_bench.audit.properties import APPEARANCE, METADATA, find_outliers, measure
from avatar_bench.data.dataset import Dataset, list_files
from avatar_bench.data.decoding import decode_bytes
from avatar_bench.data.duplicates import find_matches
from avatar_bench.data.equalise import equalise_bytes
from avatar_bench.data.fingerprints import Fingerprint, fingerprint_files
from avatar_bench.errors import DataError
from avatar_bench.i18n import _
from avatar_bench.results.result import Metric

# The file alone tells the class, whatever the network: at .90 nine of ten pairs of images of two classes are told
# apart without a look at the image, and no accuracy on this set is evidence of more.
SHORTCUT_AUROC = 0.90
# Below .65 what the file tells explains little of any useful accuracy; above it, it deserves to be named.
NOTABLE_AUROC = 0.65
# With fewer than 10 images the 95 % interval of a recall of .9 is wider than .4, and with fewer than 5 groups a
# split into train, val and test leaves a part with one person or none.
MIN_IMAGES_PER_CLASS, MIN_GROUPS_PER_CLASS = 10, 5
# A twentieth of wrong labels bounds every accuracy at about .95, which is where the better networks differ.
MANY_CONFLICTS = 0.05
# A tenth of the images adds little of its own; intervals that count images are then too narrow.
MANY_COPIES = 0.10
# Blank, tiny, blurred or extreme images beyond a twentieth are a habit of a source, not an accident.
MANY_OUTLIERS = 0.05
# A class three times another makes accuracy lean to it; balanced figures and a sampler are then called for.
MAX_CLASS_RATIO = 3.0


def measure_images(dataset: Dataset, resize: str | None = None) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Measure every image, as it is stored or, where `resize` says how it is made square, after equalising it.

    Give a row an image in order (path, label, source, generator, group, row: its place in the set, and all that
    `properties.measure` knows, with `outlier` and `generated`: a provenance hint says so), and (path, reason) of those
    that cannot be decoded.
    """
    files = list_files(dataset)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = pool.map(lambda file: _measure_file(file, resize), files)
        told = "images measured" + " after equalising" * (resize is not None)
        found = list(tqdm(jobs, told, len(files), leave=False, disable=None))
    usable = [index for index, values in enumerate(found) if isinstance(values, dict)]
    bad = [(str(dataset.frame["path"].iat[i]), said) for i, said in enumerate(found) if isinstance(said, str)]
    if not usable:
        raise DataError(f"{dataset.name}: no image can be decoded; first: {bad[0][1] if bad else 'none is there'}")
    known = dataset.frame[["path", "label", "source", "generator", "group"]].iloc[usable].reset_index(drop=True)
    frame = pd.concat([known.assign(row=usable), pd.DataFrame([found[index] for index in usable])], axis=1)
    generated = [says_generated(dict(zip(HINTS, row, strict=True))) for row in frame[list(HINTS)].to_numpy(str)]
    return frame.assign(outlier=find_outliers(frame), generated=generated), bad


def find_copies(dataset: Dataset, frame: pd.DataFrame) -> pd.DataFrame:
    """Find the copies among measured images of a set: a row a pair, with `conflict` where their classes differ."""
    rows = frame["row"].tolist()
    found = fingerprint_files([dataset.file(row) for row in rows])
    prints = [one for one in found if isinstance(one, Fingerprint)]  # all are, as all could be measured
    sha256s = dataset.frame["sha256"].iloc[rows].tolist()
    matches = find_matches(sha256s, prints, lambda index: dataset.image(rows[index]))
    path, label = frame["path"].tolist(), frame["label"].tolist()
    pairs = [
        (path[m.left], path[m.right], m.kind, m.distance, m.turned, label[m.left], label[m.right]) for m in matches
    ]
    table = pd.DataFrame(pairs, columns=["left", "right", "kind", "distance", "turned", "left_label", "right_label"])
    return table.assign(conflict=(table["left_label"] != table["right_label"]).astype(bool))


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Give, by property and class, n, a number's median, 5 and 95 % quantile, or the commonest word and its share."""
    rows = []
    for name in (*METADATA, *APPEARANCE):
        for label, values in frame.groupby("label")[name]:
            rows.append((name, label, len(values), *_summarise_values(values)))
    columns = ["property", "label", "n", "median", "low", "high", "commonest", "share"]
    return pd.DataFrame(rows, columns=columns)


def cross_tabulate(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Count images by a name (rows, "" where not known, the most images first) and class (columns), and in all."""
    table = pd.crosstab(frame[column], frame["label"])
    table = table.assign(total=table.sum(axis=1)).sort_values("total", ascending=False, kind="stable")
    return table.rename_axis(columns=None).reset_index()


def count_hints(frame: pd.DataFrame) -> pd.DataFrame:
    """Count, by class, the images that bear each provenance hint, and those that a hint states to be generated."""
    bears = (frame[list(HINTS)] != "").assign(says_generated=frame["generated"])
    table = bears.groupby(frame["label"]).sum().T.rename_axis(columns=None)
    return table.rename_axis("hint").reset_index()


def assess(
    frame: pd.DataFrame, file_alone: Metric, source_alone: Metric, matches: pd.DataFrame | None = None
) -> Assessment:
    """Say in words whether a set can tell classes by what its images show; the gravest reason comes first.

    `frame` has label, source, generator, group, outlier; `file_alone` and `source_alone` are AUROCs of probes;
    `matches` has left, right and conflict of each pair of copies; None: they were not looked for.
    """
    matches = pd.DataFrame(columns=["left", "right", "conflict"]) if matches is None else matches
    counts = frame["label"].value_counts()
    if len(counts) < 2:
        return Assessment("not asked", [_("one class") if len(counts) else _("no class is known")])
    grave = [
        *_find_small_classes(frame),
        *_find_shortcut(file_alone, SHORTCUT_AUROC),
        *_find_conflicts(matches, len(frame)),
    ]
    if grave:
        return Assessment("no", [*grave, *_find_cautions(frame, source_alone, matches)])
    cares = [*_find_shortcut(file_alone, NOTABLE_AUROC), *_find_cautions(frame, source_alone, matches)]
    return Assessment("with care" if cares else "yes", cares)


def find_single_source_classes(frame: pd.DataFrame, column: str = "source") -> list[str]:
    """Name the classes whose images, as far as is known, all come from one source; none where none is known."""
    known = frame[frame[column] != ""]
    kinds = known.groupby("label")[column].nunique()
    return [str(label) for label in kinds.index[kinds == 1]]


def _measure_file(file: Path, resize: str | None) -> dict[str, Any] | str:
    try:
        data = file.read_bytes()
        if resize is not None:
            data = equalise_bytes(decode_bytes(data, str(file)), resize)
        return dict(measure(data, str(file)))
    except DataError as error:
        return error.lines[0]
    except OSError as error:
        return f"{file}: cannot be read: {error.strerror or error}."


def _summarise_values(values: pd.Series) -> Sequence[Any]:
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
        return median, low, high, "", np.nan
    shares = values.astype(str).value_counts(normalize=True)
    return np.nan, np.nan, np.nan, shares.index[0], shares.iloc[0]


def _find_small_classes(frame: pd.DataFrame) -> list[str]:
    reasons = []
    for label, part in frame.groupby("label"):
        groups = part["group"].nunique()
        if len(part) < MIN_IMAGES_PER_CLASS:
            reasons.append(
                _(
                    "class {label} has fewer than {least} images: {n}",
                    label=repr(label),
                    least=MIN_IMAGES_PER_CLASS,
                    n=len(part),
                )
            )
        elif groups < MIN_GROUPS_PER_CLASS:
            reasons.append(
                _(
                    "class {label} has fewer than {least} groups: {n}",
                    label=repr(label),
                    least=MIN_GROUPS_PER_CLASS,
                    n=groups,
                )
            )
    return reasons


def _find_shortcut(file_alone: Metric, threshold: float) -> list[str]:
    value, low = file_alone.value, file_alone.low
    if value is None or (value if low is None else low) < threshold:
        return []
    if low is None:
        return [_("the file alone, without its image, tells a class: AUROC {value}", value=f"{value:.2f}")]
    text = _(
        "the file alone, without its image, tells a class: AUROC {value}, at least {low}",
        value=f"{value:.2f}",
        low=f"{low:.2f}",
    )
    return [text]


def _find_conflicts(matches: pd.DataFrame, n: int) -> list[str]:
    share = _count_involved(matches[matches["conflict"].astype(bool)]) / n
    if share <= MANY_CONFLICTS:
        return []
    return [_("{share} of the images have a copy of another class", share=f"{share:.0%}")]


def _find_cautions(frame: pd.DataFrame, source_alone: Metric, matches: pd.DataFrame) -> list[str]:
    counts, n = frame["label"].value_counts(), len(frame)
    conflicts, copies = _count_involved(matches[matches["conflict"].astype(bool)]), _count_involved(matches) / n
    odd = float((frame["outlier"] != "").mean())
    found = [_("class {label} comes from one source", label=repr(label)) for label in find_single_source_classes(frame)]
    generators = find_single_source_classes(frame, "generator")
    found += [_("class {label} comes from one generator", label=repr(label)) for label in generators]
    if (source_alone.value or 0) >= SHORTCUT_AUROC:
        found.append(_("the source tells the class: evaluate on sources not trained on"))
    if 0 < conflicts / n <= MANY_CONFLICTS:
        found.append(_("images with a copy of another class: {n}", n=conflicts))
    if counts.iloc[0] > MAX_CLASS_RATIO * counts.iloc[-1]:
        (most, largest), (least, smallest) = counts.iloc[[0, -1]].items()
        found.append(
            _("there are {n} of {most} and {m} of {least}", n=largest, most=repr(most), m=smallest, least=repr(least))
        )
    if copies > MANY_COPIES:
        found.append(_("{share} of the images have a copy or near-duplicate", share=f"{copies:.0%}"))
    if odd > MANY_OUTLIERS:
        found.append(_("{share} of the images are blank, tiny, blurred or of extreme shape", share=f"{odd:.0%}"))
    return found


def _count_involved(matches: pd.DataFrame) -> int:
    return len(set(matches["left"]) | set(matches["right"]))
