"""Guards of evaluation: a set is refused that holds unknown classes, or pictures that something was fitted on."""

from __future__ import annotations

from collections.abc import Sequence

from avatar_bench.data.guards import shared_pictures
from avatar_bench.data.manifest import Dataset
from avatar_bench.errors import GuardError


def refuse_unknown(dataset: Dataset, classes: Sequence[str]) -> None:
    """Raise GuardError where a label is not among the classes that a network knows."""
    unknown = sorted(set(dataset.classes) - set(classes))
    if unknown:
        raise GuardError(
            f"{dataset.name} has class {unknown[0]!r}, which this network does not know.",
            f"It knows: {', '.join(classes)}. Classes are matched by name:",
            "rename the folder or label, or leave those pictures out.",
        )


def refuse_overlap(dataset: Dataset, train: Dataset, what: str = "training") -> None:
    """Raise GuardError where a set holds pictures, or others of their groups, that a network was trained on.

    `what` names the step that saw them.
    """
    for column, known, by in (
        ("sha256", set(train.frame["sha256"]), "picture"),
        ("group", {*train.frame["group"], *train.frame["stated_group"]} - {""}, "group"),
    ):
        shared = dataset.frame[column].isin(known)
        if shared.any():
            raise GuardError(
                f"{dataset.name} shares {int(shared.sum())} of {len(dataset)} pictures with the {what} data by "
                f"{by}, first {dataset.frame.loc[shared, 'path'].iat[0]}.",
                "Figures on pictures that the network has seen say nothing of new ones: take others out, or",
                "say allow=[overlap], which is written beside the figures.",
            )


def refuse_near(dataset: Dataset, train: Dataset, what: str = "training") -> None:
    """Raise GuardError where a set holds near-duplicates of pictures that a network was trained on."""
    # copies of the bytes are for refuse_overlap to tell
    found = [match for match in shared_pictures(train, dataset) if match.kind != "bytes"]
    if found:
        copies = len({match.right for match in found})
        raise GuardError(
            f"{copies} of {len(dataset)} pictures of {dataset.name} are near-duplicates of {what} pictures, "
            f"first {dataset.frame['path'].iat[found[0].right]} of {train.frame['path'].iat[found[0].left]}.",
            "Figures on pictures that the network has seen say nothing of new ones: take them out, or",
            "say allow=[near_duplicates], which is written beside the figures.",
        )


def refuse_fitted(dataset: Dataset, fitted: Dataset) -> None:
    """Raise GuardError where a set to be judged shares pictures or groups with those that something is fitted on."""
    for column in ("sha256", "group"):
        shared = dataset.frame[column].isin(set(fitted.frame[column]))
        if shared.any():
            raise GuardError(
                f"{int(shared.sum())} of {len(dataset)} pictures of {dataset.name} are among those that this block "
                f"is fitted on, first {dataset.frame.loc[shared, 'path'].iat[0]}.",
                "What is fitted on the pictures that it is judged by looks better than it is: choose split=test.",
            )
