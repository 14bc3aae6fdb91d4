"""Weights that training started from: where they come from, and the data and labels that they were trained on."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from avatar_bench.files.document import read_yaml

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run

UNKNOWN = "?"
SCRATCH, PUBLISHED, FILE = "scratch", "published", "file"
_TAGS = Path(__file__).with_name("weight_tags.yaml")
_SIZE_TAG = re.compile(r"[re]?\d+")  # image sizes and epochs in a tag of weights: r224, e300, 384


class StartingWeights(NamedTuple):
    """Weights that training started from: "scratch", "published", "file" or a pretraining method, with details.

    `detail` is the tag of published weights, or the first digits of a file's SHA-256. `trained` describes the data and
    labels of their training, so that the weights of two architectures can be compared; UNKNOWN if not known.
    """

    kind: str
    detail: str = ""
    trained: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.detail}".strip()


def read_starting_weights(run: Run) -> StartingWeights:
    """Read which weights the training of a run started from."""
    init = run.record.init or {"weights": run.card.weights}
    weights = str(init.get("weights") or "none")
    if "sha256" in init:
        method = init.get("method")
        images = str(init.get("images_sha256", UNKNOWN))[:6]
        trained = f"{method}, epochs {init.get('epochs', UNKNOWN)}, images {images}" if method else UNKNOWN
        return StartingWeights(str(method or FILE), str(init["sha256"])[:6], trained)
    if weights == "none":
        return StartingWeights(SCRATCH)
    tag = find_tag(run.card.backbone)
    return StartingWeights(
        PUBLISHED, tag + " by package" * (weights == "package"), describe_pretraining(tag) or UNKNOWN
    )


def find_tag(backbone: str) -> str:
    """Return the tag of the weights that timm loads by this name; its default tag if the name has none."""
    if tag := backbone.partition(".")[2]:
        return tag
    import timm  # takes a second to import, and is not needed for names with a tag

    config = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None  # type: ignore[attr-defined]
    return str(config.tag or "") if config else ""


@cache
def describe_pretraining(tag: str) -> str:
    """Describe the data and labels behind a weights tag; "" if unknown, as with teachers or other data."""
    known = read_yaml(_TAGS)
    words = [word for word in tag.split("_") if word not in known["training_recipes"] and not _SIZE_TAG.fullmatch(word)]
    stated = known["trained_with"]
    return "" if tag in known["ambiguous"] else str(stated.get(tag, stated.get("_".join(words), "")))


def find_newest_images(trained: str) -> int | None:
    """Return the year after which no image of the `trained` data of weights was made; None if it is unknown."""
    years = read_yaml(_TAGS)["newest_images"]
    return max((year for data, year in years.items() if data in trained), default=None)
