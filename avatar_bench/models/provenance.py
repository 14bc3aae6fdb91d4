"""What published weights were trained with, read off the tags that timm gives them."""

from __future__ import annotations

import re

_LABELS = "labels of ImageNet"
_MASKED = "masked autoencoding on ImageNet-1k"
_TRAINED_WITH = {  # what a tag says of data and labels, in the words of timm
    "in1k": f"{_LABELS}-1k",
    "in12k": f"{_LABELS}-12k",
    "in21k": f"{_LABELS}-21k",
    "in22k": f"{_LABELS}-21k",
    "in12k_ft_in1k": f"{_LABELS}-12k, then 1k",
    "in21k_ft_in1k": f"{_LABELS}-21k, then 1k",
    "in22k_ft_in1k": f"{_LABELS}-21k, then 1k",
    "mae": _MASKED,
    "fcmae": _MASKED,
    "fcmae_ft_in1k": f"{_MASKED}, then its labels",
    "dino": "DINO on ImageNet-1k",
    "lvd142m": "DINOv2 on LVD-142M",
    "openai": "texts of 400 M pictures",
    "laion2b": "texts of LAION-2B",
    "clip_laion2b": "texts of LAION-2B",
}
_RECIPES = (  # words for who trained with labels, and how: nothing but the data's own labels had a part
    *("a1", "a1h", "a2", "a3", "agc", "augreg", "augreg2", "bt", "c1", "c2", "c3", "ch", "cvnets", "d", "fb", "gluon"),
    *("lamb", "ms", "nav", "orig", "pycls", "ra", "ra2", "ra3", "ra4", "rmsp", "sbb", "sw", "tv", "tv2"),
)
_SIZES = re.compile(r"[re]?\d+")  # of pictures and epochs: r224, e300, 384
_UNTOLD = ("in22k_ft_in1k",)  # a tag of several meanings: those of EVA and BEiT began without labels


def tag_of(backbone: str) -> str:
    """Give the tag of the weights that timm loads by this name, its default one where the name bears none."""
    if tag := backbone.partition(".")[2]:
        return tag
    import timm  # takes a second, which names with a tag do without

    config = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None  # type: ignore[attr-defined]
    return str(config.tag or "") if config else ""


def trained_with(tag: str) -> str:
    """Say what weights of a tag were trained with; "" where it does not tell, as of teachers and other data."""
    if tag in _UNTOLD:
        return ""
    words = [word for word in tag.split("_") if word not in _RECIPES and not _SIZES.fullmatch(word)]
    return _TRAINED_WITH.get("_".join(words), "")
