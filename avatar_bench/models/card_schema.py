"""Schema of checkpoint cards: the allowed names, types and ranges."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

MAX_CLASSES = 1000
MAX_CARD_TEXT_LENGTH = 200  # characters of a name
MAX_IMAGE_SIDE = 4096  # pixels of an input image; also the largest number in an option
MAX_LIST_ITEMS = 16  # entries of a list option
# options of timm networks that change the architecture and load nothing
NETWORK_OPTIONS = (
    "drop_rate", "drop_path_rate", "drop_block_rate", "proj_drop_rate", "pos_drop_rate", "attn_drop_rate",
    "patch_drop_rate", "attn_drop", "head_drop_rate", "img_size", "patch_size", "window_size", "embed_dim",
    "embed_dims", "dims", "depth", "depths", "num_heads", "heads", "mlp_ratio", "mlp_ratios", "qkv_bias",
    "qk_norm", "init_values", "ls_init_value", "class_token", "reg_tokens", "no_embed_class",
    "dynamic_img_size", "dynamic_img_pad", "strict_img_size", "pos_embed", "global_pool", "fc_norm",
    "act_layer", "norm_layer", "head_init_scale", "output_stride", "stem_width", "base_width", "cardinality",
    "kernel_sizes", "layers", "channels", "round_limit",
)  # fmt: skip

CardRule = tuple[Callable[[Any], bool], str]  # a check of a value, and the same in words


def find_card_fault(card: Mapping[str, Any]) -> str:
    """Describe what is wrong with the card of a classifier, or of weights without one; return "" for a valid card."""
    if fault := _find_fault(card, _CARD):
        return fault
    for name in ("mean", "std", "size", "resize"):
        if name not in card["preprocessing"]:
            return f"its preprocessing has no '{name}'"
    fault = find_class_fault(card["classes"]) if "classes" in card else ""
    return fault or find_option_fault(card.get("options", {}))


def find_setting_fault(settings: Mapping[str, Any]) -> str:
    """Describe the first setting of an imported detector with a wrong type or range; return "" if there is none."""
    return _find_fault({name: value for name, value in settings.items() if value is not None}, _SETTINGS)


def find_class_fault(classes: Sequence[str]) -> str:
    """Describe what is wrong with the class names; return "" for valid names."""
    if not 2 <= len(set(classes)) == len(classes) <= MAX_CLASSES:
        return f"it has {len(classes)} classes; expected 2 to {MAX_CLASSES} with distinct names"
    odd = next((name for name in classes if not _is_text(name) or not name.isprintable() or not name), None)
    if odd is None:
        return ""
    return f"a class is called {_shorten(odd)}; expected 1 to {MAX_CARD_TEXT_LENGTH} printable characters"


def find_option_fault(options: Mapping[str, Any], known: Collection[str] = ()) -> str:
    """Describe the first option that a checkpoint may not have, or that is not `known` (if given); else ""."""
    for name, value in options.items():
        if (known and name not in known) or name.startswith("_"):  # as the keys by which Hydra builds objects do
            return f"the network option {_shorten(name)} is not allowed in a checkpoint"
        values = value if isinstance(value, list | tuple) else [value]
        if len(values) > MAX_LIST_ITEMS or not all(map(_is_scalar, values)):
            return f"the network option {name} is {_shorten(value)}; expected a word, a list or a number"
    return ""


def are_ancestors(value: Any) -> bool:
    """Return whether a value is the training history of weights: a list of steps."""
    return isinstance(value, list) and all(
        type(step) is dict
        and {"method", "sha256"} <= step.keys() <= _STEP.keys()
        and all(_STEP[name](stated) for name, stated in step.items())
        for step in value
    )


def _find_fault(values: Mapping[str, Any], rules: Mapping[str, CardRule]) -> str:
    for name, (holds, expected) in rules.items():
        if name in values and not holds(values[name]):
            return f"its {name} is {_shorten(values[name])}; expected {expected}"
    return ""


def _is_text(value: Any) -> bool:
    return type(value) is str and len(value) <= MAX_CARD_TEXT_LENGTH


def _is_integer(value: Any, low: int = 0, high: int = 2**63) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(value: Any, low: float = -math.inf) -> bool:
    return type(value) in (int, float) and low < value and abs(value) <= 1e9


def _are_triples(values: Iterable[Any]) -> bool:
    return all(isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value)) for value in values)


def _is_scalar(value: Any) -> bool:
    word = type(value) is str and re.fullmatch(r"[\w.-]{0,64}", value, re.ASCII)
    return value is None or type(value) is bool or bool(word) or (_is_number(value) and abs(value) <= MAX_IMAGE_SIDE)


def _is_preprocessing(value: Any) -> bool:
    if type(value) is not dict or not value.keys() <= {"size", "resize", "mean", "std", "equalise", "mask"}:
        return False
    whole = _are_triples(value[name] for name in ("mean", "std") if name in value)
    sized = whole and _is_integer(value.get("size", 1), 1, MAX_IMAGE_SIDE) and _is_text(value.get("resize", ""))
    return sized and ("mask" not in value or _is_mask(value["mask"]))


def _is_mask(value: Any) -> bool:
    if type(value) is not dict or value.keys() != {"corners", "patches", "table"} or not _is_text(value["table"]):
        return False
    corners, patches = value["corners"], value["patches"]
    if type(patches) is not dict or not (corners is None or (_is_number(corners, 0) and corners <= 0.5)):
        return False
    return all(_is_text(mark) and _are_bearers(bearers) for mark, bearers in patches.items())


def _are_bearers(value: Any) -> bool:
    pairs = value.items() if type(value) is dict and value else [(None, None)]
    return all(re.fullmatch("[0-9a-f]{64}", str(digest)) and _are_boxes(boxes) for digest, boxes in pairs)


def _are_boxes(value: Any) -> bool:
    boxes = value if isinstance(value, list | tuple) and value else [None]
    return all(
        isinstance(box, list | tuple) and len(box) == 4 and all(_is_number(part, -1) and 0 <= part <= 1 for part in box)
        for box in boxes
    )


def _is_timm_transform(value: Any) -> bool:
    if type(value) is not dict or not value.keys() <= {*_TIMM_TEXTS, "input_size", "crop_pct", "mean", "std"}:
        return False
    size, crop = value.get("input_size", ()), value.get("crop_pct", 1)
    whole = _are_triples([size, *(value[name] for name in ("mean", "std") if name in value)])
    fits = whole and _is_number(crop, 0) and all(1 <= side / min(crop, 1) <= MAX_IMAGE_SIDE for side in size[1:])
    return fits and all(_is_text(value[name]) for name in _TIMM_TEXTS if name in value)


def _is_scale(value: Any) -> bool:
    known = type(value) is dict and value.keys() == {"is_probability", "factor"}
    return known and type(value["is_probability"]) is bool and _is_number(value["factor"], 0)


def _is_versions(value: Any) -> bool:
    pairs = value.items() if type(value) is dict and len(value) <= 100 else [(None, None)]
    return all(_is_text(name) and _is_text(version) for name, version in pairs)


def _is_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(type(name) is str for name in value)


def _shorten(value: Any) -> str:
    return ascii(value)[:80]


_STEP: dict[str, Callable[[Any], bool]] = {  # a step in the training history
    **dict.fromkeys(("method", "sha256", "split_fingerprint", "data_fingerprint"), _is_text),
    "images": _is_integer,
    "allow": _is_names,
}
_TEXT: CardRule = (_is_text, f"a string of at most {MAX_CARD_TEXT_LENGTH} characters")
_STRING: CardRule = (lambda value: type(value) is str, "a string")
_COUNT: CardRule = (_is_integer, "an integer of 0 or more")
_CARD: dict[str, CardRule] = {
    "classes": (_is_names, "a list of strings"),
    "backbone": (lambda value: _is_text(value) and bool(re.fullmatch(r"[\w.]+", value, re.A)), "the name of a network"),
    "preprocessing": (
        _is_preprocessing,
        f"size up to {MAX_IMAGE_SIDE}, resize, mean and std of three numbers, equalise, mask",
    ),
    "options": (lambda value: type(value) is dict and all(map(_is_text, value)), "a mapping of options"),
    "stage": (lambda value: _is_integer(value, 1, 1000), "an integer from 1 to 1000"),
    "temperature": (lambda value: _is_number(value, 0), "a number above 0"),
    "trained_until": (
        lambda value: type(value) is str and bool(re.fullmatch(r"(\d{4}(-\d\d){0,2})?", value, re.A)),
        "YYYY, YYYY-MM or YYYY-MM-DD",
    ),
    "ancestors": (are_ancestors, "a list of training steps"),
    "versions": (_is_versions, "a short mapping of versions"),
    "schema": (_is_integer, "an integer"),
    **dict.fromkeys(("mode", "split_fingerprint", "data_fingerprint", "method", "images_sha256"), _TEXT),
    **dict.fromkeys(("weights", "root"), _STRING),
    **dict.fromkeys(("seed", "epochs", "images"), _COUNT),
}
_TIMM_TEXTS = ("interpolation", "crop_mode")
_SETTINGS: dict[str, CardRule] = {  # of an imported detector, where they are stated
    "temperature": _CARD["temperature"],
    "preprocessing": (
        lambda value: _is_preprocessing(value) and {"size", "resize", "mean", "std"} <= value.keys(),
        _CARD["preprocessing"][1],
    ),
    "threshold": (_is_number, "a number"),
    "scale": (_is_scale, "is_probability and factor"),
    "timm": (_is_timm_transform, f"input_size with crop_pct up to {MAX_IMAGE_SIDE}, mean and std of three numbers"),
}
