"""Audit of a data set: measured properties, summaries by class, shared provenance, and the assessment with reasons."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from avatar_bench.audit.assessment import Assessment
from avatar_bench.audit.evidence_rules import EVIDENCE_SAYS
from avatar_bench.audit.file_metadata import HINTS
from avatar_bench.audit.properties import APPEARANCE, METADATA, find_outliers, measure
from avatar_bench.console.progress import track
from avatar_bench.data.dataset import OTHER_PREFIX, Dataset, list_files
from avatar_bench.data.decoding import decode_bytes
from avatar_bench.data.equalise import equalise_bytes
from avatar_bench.data.leakage import match_copies
from avatar_bench.data.splits import name_origins
from avatar_bench.errors import DataError
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric

# The file alone predicts the class, whatever the network: at .90, nine of ten pairs of images of two classes are ranked
# correctly without the image, so that an accuracy on this set proves nothing about image content.
SHORTCUT_AUROC = 0.90
# Below .65, the file explains little of any useful accuracy; above, it is reported.
NOTABLE_AUROC = 0.65
# With fewer than 10 images, the 95 % interval of a recall of .9 is wider than .4; with fewer than 5 groups, one of
# train, val and test has at most one group (one person, say).
MIN_IMAGES_PER_CLASS, MIN_GROUPS_PER_CLASS = 10, 5
# With 5 % wrong labels, accuracy is bounded at about .95, where the better networks differ.
MANY_CONFLICTS = 0.05
# Above 10 % copies, intervals that count images as units are too narrow.
MANY_COPIES = 0.10
# Above 5 %, blank, tiny, blurred or extreme images are systematic, not accidental.
MANY_OUTLIERS = 0.05
# A class three times as large as another dominates accuracy; balanced metrics and a sampler are needed.
MAX_CLASS_RATIO = 3.0
SHARED_TABLE = "shared_provenance"
_SHOWN = 3  # values that are named in warnings; the table has all
# words that stand for a missing name, as in "various diffusion models" or "photographers not named"
_UNKNOWN = re.compile(
    r"unknown|various|not (?:named|stated|known|documented)|see the manifest|^(?:others?|none|n/?a|)$", re.IGNORECASE
)


def measure_images(dataset: Dataset, resize: str | None = None) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Measure every image as stored or, where `resize` names a way to make it square, after equalising it.

    Return a table with one row per image in order (path, label, source, generator, group, row: its position in the
    set, the values of `properties.measure`, `outlier`, and `generated`: its metadata declare it AI-generated),
    and (path, reason) of images that cannot be decoded. Raises DataError where none can be decoded.
    """
    files = list_files(dataset)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = pool.map(lambda file: _measure_file(file, resize), files)
        measured = list(track(jobs, "measure images" + " after equalising" * (resize is not None), len(files)))
    usable = [index for index, values in enumerate(measured) if isinstance(values, dict)]
    bad = [(str(dataset.frame["path"].iat[i]), why) for i, why in enumerate(measured) if isinstance(why, str)]
    if not usable:
        raise DataError(f"{dataset.name}: no image can be decoded; first: {bad[0][1] if bad else 'the set is empty'}")
    known = dataset.frame[["path", "label", "source", "generator", "group"]].iloc[usable].reset_index(drop=True)
    frame = pd.concat([known.assign(row=usable), pd.DataFrame([measured[index] for index in usable])], axis=1)
    return frame.assign(outlier=find_outliers(frame), generated=frame[EVIDENCE_SAYS] == "generated"), bad


def find_copies(dataset: Dataset, frame: pd.DataFrame) -> pd.DataFrame:
    """Find copies among measured images of a set: one row per pair, with `conflict` where their classes differ."""
    _, matches = match_copies(dataset.take(frame["row"].to_numpy()))
    path, label = frame["path"].to_numpy(dtype=object), frame["label"].to_numpy(dtype=object)
    left, right = matches["left"].to_numpy(), matches["right"].to_numpy()
    table = matches.assign(left=path[left], right=path[right], left_label=label[left], right_label=label[right])
    return table.assign(conflict=(table["left_label"] != table["right_label"]).astype(bool))


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Summarise each property by class: n, median and 5 and 95 % quantiles, or the commonest value and its share."""
    rows = []
    for name in (*METADATA, *APPEARANCE):
        for label, values in frame.groupby("label")[name]:
            rows.append((name, label, len(values), *_summarise_values(values)))
    return pd.DataFrame(rows, columns=["property", "label", "n", "median", "low", "high", "commonest", "share"])


def cross_tabulate(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Count images by a name (rows, the largest first; "" means not known) and class (columns), with totals."""
    table = pd.crosstab(frame[column], frame["label"])
    table = table.assign(total=table.sum(axis=1)).sort_values("total", ascending=False, kind="stable")
    return table.rename_axis(columns=None).reset_index()


def count_hints(frame: pd.DataFrame) -> pd.DataFrame:
    """Count by class the images with each provenance hint, and those that a hint declares AI-generated."""
    present = (frame[list(HINTS)] != "").assign(is_declared_generated=frame["generated"])
    return present.groupby(frame["label"]).sum().T.rename_axis(columns=None).rename_axis("hint").reset_index()


def assess(
    frame: pd.DataFrame,
    file_alone: Metric,
    source_alone: Metric,
    matches: pd.DataFrame | None = None,
    marks: Sequence[Reason] = (),
) -> Assessment:
    """Assess whether the classes of a set can only be distinguished by image content; the gravest reason comes first.

    `file_alone` and `source_alone` are AUROCs of probes; `matches` are pairs of copies, None if not searched for;
    `marks` are reasons for care.
    """
    matches = pd.DataFrame(columns=["left", "right", "conflict"]) if matches is None else matches
    classes = frame["label"].nunique()
    if classes < 2:
        return Assessment("not_asked", [Reason("one_class" if classes else "no_class")])
    pairs = matches[matches["conflict"].astype(bool)], matches
    conflicts, copies = (len(set(part["left"]) | set(part["right"])) for part in pairs)
    grave = [*_find_small_classes(frame), *_find_shortcut(file_alone, SHORTCUT_AUROC)]
    if conflicts / len(frame) > MANY_CONFLICTS:
        grave.append(Reason("many_conflicts", share=conflicts / len(frame)))
    cautions = [*marks, *_find_cautions(frame, source_alone, conflicts, copies)]
    if grave:
        return Assessment("no", [*grave, *cautions])
    cautions = [*_find_shortcut(file_alone, NOTABLE_AUROC), *cautions]
    return Assessment("with_care" if cautions else "yes", cautions)


def find_single_source_classes(frame: pd.DataFrame, column: str = "source") -> list[str]:
    """Return the classes whose images with a known source all come from one source."""
    kinds = frame[frame[column] != ""].groupby("label")[column].nunique()
    return [str(label) for label in kinds.index[kinds == 1]]


def compare_provenance(
    training: Dataset, external: Dataset, units: Mapping[str, Sequence[str]]
) -> tuple[pd.DataFrame, list[Reason]]:
    """Return field, value and classes of what both sets share, with the number of images of each, and warnings.

    `units` joins sources of one publisher. Several names of authors are compared one by one.
    """
    ours, theirs = (_list_values(dataset, units) for dataset in (training, external))
    keys = ["field", "value"]
    counts = {"training": ours.groupby(keys)["row"].nunique(), "external": theirs.groupby(keys)["row"].nunique()}
    classes = pd.concat([ours, theirs]).groupby(keys)["label"].agg(lambda labels: ", ".join(sorted(set(labels) - {""})))
    shared = pd.concat(counts, axis=1, join="inner").join(classes.rename("classes")).reset_index()
    shared = shared.sort_values(["external", *keys], ascending=[False, True, True], ignore_index=True)
    warnings = [
        Reason("shared", classes=classes or "?", field=field, value=value, n=n, m=m, set=external.name)
        for field, value, n, m, classes in shared.head(_SHOWN).itertuples(index=False)
    ]
    if more := len(shared) - len(warnings):
        warnings.append(Reason("more_shared", n=more, table=SHARED_TABLE))
    unknown = [len(training) - ours["row"].nunique(), len(external) - theirs["row"].nunique()]
    if any(unknown):
        sizes = {"all": len(training), "set": external.name, "all_external": len(external)}
        warnings.append(Reason("provenance_unknown", n=unknown[0], m=unknown[1], **sizes))
    return shared, warnings


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


def _find_small_classes(frame: pd.DataFrame) -> list[Reason]:
    reasons = []
    for label, part in frame.groupby("label"):
        groups = part["group"].nunique()
        if len(part) < MIN_IMAGES_PER_CLASS:
            reasons.append(Reason("few_images", name=label, least=MIN_IMAGES_PER_CLASS, n=len(part)))
        elif groups < MIN_GROUPS_PER_CLASS:
            reasons.append(Reason("few_groups", name=label, least=MIN_GROUPS_PER_CLASS, n=groups))
    return reasons


def _find_shortcut(file_alone: Metric, threshold: float) -> list[Reason]:
    value, low = file_alone.value, file_alone.low
    if value is None or (value if low is None else low) < threshold:
        return []
    return [Reason("file", value=value) if low is None else Reason("file_with_interval", value=value, low=low)]


def _find_cautions(frame: pd.DataFrame, source_alone: Metric, conflicts: int, copies: int) -> list[Reason]:
    counts, n = frame["label"].value_counts(), len(frame)
    odd = float((frame["outlier"] != "").mean())
    unknown = sorted(set(counts.index) - set(frame["label"][frame["source"] != ""]))
    cautions = [Reason("one_source", name=label) for label in find_single_source_classes(frame)]
    cautions += [Reason("one_generator", name=label) for label in find_single_source_classes(frame, "generator")]
    if unknown:
        cautions.append(Reason("sources_unknown", names=unknown))
    if (source_alone.value or 0) >= SHORTCUT_AUROC:
        cautions.append(Reason("source"))
    if 0 < conflicts / n <= MANY_CONFLICTS:
        cautions.append(Reason("conflicts", n=conflicts))
    if counts.iloc[0] > MAX_CLASS_RATIO * counts.iloc[-1]:
        (most, largest), (least, smallest) = counts.iloc[[0, -1]].items()
        cautions.append(Reason("unbalanced", n=largest, most=most, m=smallest, least=least))
    if copies / n > MANY_COPIES:
        cautions.append(Reason("copies", share=copies / n))
    if odd > MANY_OUTLIERS:
        cautions.append(Reason("outliers", share=odd))
    return cautions


def _list_values(dataset: Dataset, units: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return row, label, field and value of everything that is known, several rows for several authors."""
    frame = dataset.frame
    known = {name: frame.get(OTHER_PREFIX + name, pd.Series("", frame.index)) for name in ("url", "author")}
    known |= {"generator": frame["generator"], "origin": name_origins(frame, units)}
    known["url"] = known["url"].str.rstrip("/")
    known["author"] = known["author"].str.replace(r"\([^)]*\)", "", regex=True).str.split(r"[,;]|\band\b", regex=True)
    parts = [
        pd.DataFrame({"row": range(len(frame)), "label": frame["label"].to_numpy(), "field": field, "value": values})
        for field, values in known.items()
    ]
    table = pd.concat(parts).explode("value")
    table["value"] = table["value"].fillna("").str.strip()
    return table[~table["value"].str.contains(_UNKNOWN)]
