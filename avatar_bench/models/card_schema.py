"""Schema of checkpoint cards: the types of what they state, and the names of classes and options that they may have."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired

from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen
from typing_extensions import TypedDict

from avatar_bench.files.document import Check, Document, OpenDocument, Typed, matching, parse

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


def find_class_fault(classes: Sequence[str]) -> str:
    """Describe what is wrong with the class names; return "" for valid names."""
    if not 2 <= len(set(classes)) == len(classes) <= MAX_CLASSES:
        return f"it has {len(classes)} classes; expected 2 to {MAX_CLASSES} with distinct names"
    odd = next((name for name in classes if not 0 < len(name) <= MAX_CARD_TEXT_LENGTH or not name.isprintable()), None)
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


def _is_scalar(value: Any) -> bool:
    if isinstance(value, str):
        return bool(re.fullmatch(r"[\w.-]{0,64}", value, re.ASCII))
    return value is None or (isinstance(value, int | float) and abs(value) <= MAX_IMAGE_SIDE)


def _shorten(value: Any) -> str:
    return ascii(value)[:80]


def _find_size_fault(transform: Mapping[str, Any]) -> str:
    """Describe what is wrong with the size from which a transform of timm crops the middle; return "" if it fits."""
    crop = min(transform.get("crop_pct", 1.0), 1.0)
    fits = all(1 <= side / crop <= MAX_IMAGE_SIDE for side in transform["input_size"][1:])
    return "" if fits else f"expected input_size with crop_pct up to {MAX_IMAGE_SIDE}"


Text = Annotated[str, MaxLen(MAX_CARD_TEXT_LENGTH)]
Count = Annotated[int, Ge(0), Lt(2**63)]
Number = Annotated[float, Interval(ge=-1e9, le=1e9)]
Positive = Annotated[float, Interval(gt=0, le=1e9)]
Classes = Annotated[tuple[str, ...], Check(find_class_fault)]
NetworkName = Annotated[Text, matching(r"[\w.]+", "the name of a network")]
NetworkOptions = Annotated[dict[Text, Any], Check(find_option_fault)]
Versions = Annotated[dict[Text, Text], MaxLen(100)]
Stage = Annotated[int, Interval(ge=1, le=1000)]
Date = Annotated[str, matching(r"(\d{4}(-\d\d){0,2})?", "YYYY, YYYY-MM or YYYY-MM-DD")]
_Triple = Annotated[list[Number], Len(3, 3)]
_Box = Annotated[list[Annotated[float, Interval(ge=0, le=1)]], Len(4, 4)]
_Digest = Annotated[str, matching("[0-9a-f]{64}", "a SHA-256")]
_Bearers = Annotated[dict[_Digest, Annotated[list[_Box], MinLen(1)]], MinLen(1)]


class _Strict(TypedDict):
    __pydantic_config__ = Document.__pydantic_config__  # type: ignore[misc]  # here pydantic looks for it


class _Mask(_Strict):
    corners: Annotated[float, Gt(0), Le(0.5)] | None
    patches: dict[Text, _Bearers]
    table: Text


class _Preprocessing(_Strict):
    size: Annotated[int, Interval(ge=1, le=MAX_IMAGE_SIDE)]
    resize: Text
    mean: _Triple
    std: _Triple
    equalise: NotRequired[Any]
    mask: NotRequired[_Mask]


class _Step(_Strict):
    method: Text
    sha256: Text
    split_fingerprint: NotRequired[Text]
    data_fingerprint: NotRequired[Text]
    images: NotRequired[Count]
    allow: NotRequired[list[str]]


class _TimmTransform(_Strict):
    input_size: _Triple
    crop_pct: NotRequired[Positive]
    mean: NotRequired[_Triple]
    std: NotRequired[_Triple]
    interpolation: NotRequired[Text]
    crop_mode: NotRequired[Text]


class _Scale(_Strict):
    is_probability: bool
    factor: Positive


Preprocessed = Annotated[dict[str, Any], Typed(_Preprocessing)]  # the evaluation transform
Step = Annotated[dict[str, Any], Typed(_Step)]  # in the training history of weights


@dataclass(frozen=True)
class DetectorSettings(OpenDocument):
    """Settings of an imported detector that every kind may have; `classes` are its own names."""

    classes: tuple[str, ...] = ()
    temperature: Positive = 1.0
    preprocessing: Preprocessed = field(default_factory=dict)
    score: str = ""  # what it means, if it is one
    threshold: Number | None = None
    scale: Annotated[dict[str, Any], Typed(_Scale)] | None = None
    timm: Annotated[_TimmTransform, Check(_find_size_fault)] | None = None

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> DetectorSettings:
        """Return the settings among those of a detector; raise ValueError for a wrong type or range."""
        return parse(cls, {name: value for name, value in settings.items() if value is not None})
