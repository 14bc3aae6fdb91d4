"""What a training starts from, and that its test pictures were not seen there."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from avatar_bench.config import PicturesConfig, TrainConfig
from avatar_bench.data.kept_out import shared_with
from avatar_bench.data.manifest import Dataset, read_split
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import GuardError
from avatar_bench.models.card import read_exported
from avatar_bench.models.checkpoints import checksum_of
from avatar_bench.models.pretrained import read_pretraining
from avatar_bench.models.weights import normalisation
from avatar_bench.runs import PRETRAINING, Run
from avatar_bench.terminal import tell


def starting_point(settings: TrainConfig, dataset: Dataset, folder: Path, earlier: Run | None) -> dict[str, Any]:
    """Give for the record what the weights come from; raise GuardError where they have seen test pictures.

    The list of the pictures that they have seen is copied into the run folder, where evaluate looks for it.
    """
    if earlier is not None:
        if earlier.pretraining is not None and earlier.folder is not None:
            shutil.copyfile(earlier.folder / PRETRAINING, folder / PRETRAINING)
        return dict(earlier.record.get("init") or {"weights": earlier.card.weights})
    weights = settings.model.weights
    if not Path(weights).is_file():
        return {"weights": weights}
    file = Path(weights)
    init: dict[str, Any] = {"weights": str(file.absolute()), "sha256": checksum_of(file)}
    card = read_pretraining(file)
    if card is None:
        return init
    pictures = card.list_beside(file)
    _refuse_seen(dataset, read_split(pictures, Path(card.root)), file, "pretraining" in settings.allow)
    shutil.copyfile(pictures, folder / PRETRAINING)
    return init | {
        "method": card.method,
        "epochs": card.epochs,
        "pictures": card.pictures,
        "pictures_sha256": card.pictures_sha256,
        "root": card.root,
    }


def preprocessing_of(file: Path) -> dict[str, Any] | None:
    """Give how pictures were prepared for weights of a file that has a card of ours; None of others."""
    card = read_pretraining(file) or read_exported(file)
    return card.preprocessing if card else None


def preprocessing_for(net: nn.Module, data: PicturesConfig, kept: Mapping[str, Any] | None) -> Preprocessing:
    """Give how pictures are prepared: as the options say, normalised as the weights expect.

    `kept` is the preprocessing that these learned with, where it is known.
    """
    stated = (kept["mean"], kept["std"]) if kept else normalisation(net)
    mean, std = (tuple(map(float, values)) for values in stated)
    return Preprocessing(data.image_size or 224, data.resize or "squash", mean, std, data.equalise)  # type: ignore[arg-type]


def _refuse_seen(dataset: Dataset, seen: Dataset, file: Path, allowed: bool) -> None:
    """Raise GuardError where test pictures are among those of a pretraining; warn where pictures of val are."""
    if gone := len(seen) - len(seen.at_hand):
        tell(
            f"warning: {gone} of {len(seen)} pictures that {file} has seen are gone: near-duplicates of them are not "
            "looked for",
            file=sys.stderr,
        )
    for sides in (("test",), ("val", "calibration")):
        part = dataset.take(dataset.frame["split"].isin(sides), name=sides[0])
        shared = shared_with(part, seen)
        if not shared.any():
            continue
        told = (
            f"{int(shared.sum())} of {len(part)} {sides[0]} pictures, their near-duplicates or others of their groups "
            f"were in the pretraining of {file}, first {part.frame.loc[shared, 'path'].iat[0]}."
        )
        if sides[0] == "test" and not allowed:
            raise GuardError(
                told,
                "Figures on pictures that the network has seen say nothing of new ones: pretrain with the same data=",
                "and data.split= options, which keeps them out, or say allow=[pretraining], which stays on record.",
            )
        tell(f"warning: {told}", file=sys.stderr)
