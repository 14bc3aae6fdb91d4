"""Values of url, author, generator and origin that training and external images share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from avatar_bench.data.dataset import OTHER_PREFIX, Dataset
from avatar_bench.data.splits import name_origins
from avatar_bench.results.reasons import Reason

SHARED_TABLE = "shared_provenance"
_SHOWN = 3  # values that are named in warnings; the table has all
# words that stand for a missing name, as in "various diffusion models" or "photographers not named"
_UNKNOWN = re.compile(
    r"unknown|various|not (?:named|stated|known|documented)|see the manifest|^(?:others?|none|n/?a|)$", re.IGNORECASE
)


def compare_provenance(
    training: Dataset, external: Dataset, units: Mapping[str, Sequence[str]]
) -> tuple[pd.DataFrame, list[Reason]]:
    """Return field, value and classes of what both sets share, with the number of images of each, and warnings.

    The warnings name what is shared, and say of how many images nothing is known. `units` joins sources of one
    publisher. Several names of authors are compared one by one.
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
