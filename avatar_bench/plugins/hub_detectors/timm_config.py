"""What a config.json of timm states: the class names and the preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from avatar_bench.data.equalise import ImageArray

_TRANSFORM_KEYS = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")


def select_transform(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the preprocessing of a config.json needs; raise KeyError if it has no pretrained_cfg."""
    stated = config["pretrained_cfg"]
    transform = {name: stated[name] for name in _TRANSFORM_KEYS if name in stated}
    if len(transform["input_size"]) != 3 or transform["input_size"][1] != transform["input_size"][2]:
        raise ValueError(f"input_size is {transform['input_size']}, expected a square")
    return transform


def read_class_names(config: Mapping[str, Any]) -> list[str]:
    """Return the class names of a config.json, [] if it has none."""
    names = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names") or []
    return [str(name) for name in names]


def build_transform(stated: Mapping[str, Any]) -> Callable[[ImageArray], NDArray[np.float32]]:
    """Return timm's evaluation transform, from a decoded image to normalised (3, S, S)."""
    import numpy as np
    from PIL import Image
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    transform: Any = create_transform(**resolve_data_config({}, pretrained_cfg=dict(stated)))  # type: ignore[no-untyped-call]
    return lambda image: np.asarray(transform(Image.fromarray(image)), dtype=np.float32)
