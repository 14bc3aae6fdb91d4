"""Transforms from a decoded image to the network's input size, for evaluation and training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np

from avatar_bench.config.entries import Entry, find_entry
from avatar_bench.data.equalise import RESIZE_MODES, ImageArray, equalise, resize_to_square
from avatar_bench.data.mask import Mask
from avatar_bench.errors import CheckpointError, ConfigError

EQUALISERS = ("jpeg",)
AUGMENTATIONS = ("flip", "jitter", "rotation", "noise", "randaugment")  # in the order in which they are applied
_HIGHEST: dict[str, float] = {"flip": 1, "rotation": 180, "noise": 1, "randaugment": 30, "delivery": 1}
DELIVERY = "delivery"  # applied before all of them, to the image as stored


@dataclass(frozen=True)
class Preprocessing:
    """Resizing of any image to (size, size, 3); `mean` and `std`, of values in 0..1, are applied by the network.

    resize: "squash" changes the aspect ratio, "crop" keeps the centred square, "pad" adds white on both sides.
    equalise: "jpeg" first re-encodes every image alike, None does not. mask: paints every image before, None does not.
    Raise ValueError for invalid values.
    """

    size: int
    resize: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    equalise: str | None = None
    mask: Mask | None = None

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 1:
            raise ValueError(f"size must be a positive integer, not {self.size!r}")
        if self.resize not in RESIZE_MODES:
            raise ValueError(f"resize must be one of {', '.join(RESIZE_MODES)}, not {self.resize!r}")
        if self.equalise not in (None, *EQUALISERS):
            raise ValueError(f"equalise must be null or {', '.join(EQUALISERS)}, not {self.equalise!r}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} must be three finite numbers, not {values!r}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, not {self.std!r}")

    def __call__(self, image: ImageArray, original: ImageArray | None = None) -> ImageArray:
        """Resize (H, W, 3) uint8 RGB to (size, size, 3) uint8; an image of that size is returned unchanged.

        `original` is the decoded image of which `image` is a variation, if it is, for the mask.
        """
        image = self.mask(image, original) if self.mask else image
        return resize_to_square(equalise(image, self.resize) if self.equalise else image, self.size, self.resize)

    @property
    def pixel_settings(self) -> tuple[Any, ...]:
        """Return the settings that the resized pixels depend on: all but `mean` and `std`."""
        return self.size, self.resize, self.equalise, *([self.mask.to_dict()] if self.mask else [])

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as numbers, strings, lists and dicts, for JSON or a checkpoint; no mask if it is None."""
        mask = {"mask": self.mask.to_dict()} if self.mask else {}
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "mask"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()} | mask

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Preprocessing:
        """Restore the result of `to_dict`; raise CheckpointError for a missing, unknown or invalid value."""
        try:
            triples = {name: tuple(float(value) for value in state[name]) for name in ("mean", "std")}
            mask = {"mask": Mask.from_dict(state["mask"])} if state.get("mask") else {}
            return cls(**{**state, **triples, **mask})
        except KeyError as error:
            raise CheckpointError(f"The checkpoint's preprocessing lacks {error}.") from error
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"The checkpoint's preprocessing cannot be used: {error}.") from error


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of a training image of the network's size; each part is off at 0.

    flip: probability of mirroring. jitter: maximum relative change of brightness, contrast and saturation, and maximum
    hue shift in turns. rotation: maximum angle in degrees, both ways. noise: maximum standard deviation of Gaussian
    noise, as a fraction of 255. randaugment: magnitude. delivery: probability of re-encoding, before the image is
    resized, see `draw_delivery`. others: options of users' own augmentations by name, applied last. Raise ConfigError
    for a value out of range, or an augmentation that does not exist or cannot be built.
    """

    flip: float = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    rotation: float = 0.0
    noise: float = 0.0
    randaugment: int = 0
    delivery: float = 0.0
    others: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict, hash=False)
    _compose: Any = field(init=False, repr=False, compare=False)
    _delivery: Any = field(init=False, repr=False, compare=False)
    _others: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.jitter) != 4:
            raise ConfigError(f"data.augment.jitter: expected 4 numbers, not {len(self.jitter)}.")
        strengths = [(name, getattr(self, name), most) for name, most in _HIGHEST.items()]
        strengths += [("jitter", value, most) for value, most in zip(self.jitter, (1, 1, 1, 0.5), strict=True)]
        for name, value, most in strengths:
            if not 0 <= value <= most:
                raise ConfigError(f"data.augment.{name}: {value} is out of range.", f"Expected 0 (off) to {most}.")
        # Built here rather than on the first call, so that worker processes inherit the import, which takes a second.
        object.__setattr__(self, "_compose", _compose(self))
        object.__setattr__(self, "_delivery", find_entry("augmentation", DELIVERY).load() if self.delivery else None)
        object.__setattr__(self, "_others", [_build_other(name, options) for name, options in self.others.items()])

    def __reduce__(self) -> tuple[Any, ...]:
        """Build it again where it is unpickled: the classes of users are not importable by name."""
        return type(self), tuple(getattr(self, member.name) for member in fields(self) if member.init)

    @property
    def is_active(self) -> bool:
        """Return whether any part is on."""
        return self._compose is not None or self.delivery > 0 or bool(self._others)

    @property
    def resembles(self) -> list[str]:
        """Return the corruptions and delivery tiers of the block robustness that the active parts resemble."""
        names = {name for part in _list_active(self) for name in find_entry("augmentation", part).load().RESEMBLES}
        return sorted(names.union(*(getattr(step, "resembles", ()) for _, step in self._others)))

    def draw_delivery(self, seed: int) -> Callable[[ImageArray], ImageArray] | None:
        """Return the re-encoding that `seed` draws for a decoded image of any size, (H, W, 3); None for none."""
        if self._delivery is None:
            return None
        rng = np.random.default_rng([seed, 1])
        return partial(self._delivery.deliver, rng=rng) if rng.random() < self.delivery else None

    def __call__(self, image: ImageArray, seed: int) -> ImageArray:
        """Augment (H, W, 3) uint8 RGB, same shape; the result depends only on `image` and `seed` (>= 0)."""
        varied = image
        if self._compose is not None:
            self._compose.set_random_seed(seed)
            varied = self._compose(image=image)["image"]
        rng = np.random.default_rng(seed)
        for entry, step in self._others:
            with entry.explain_failure():
                varied = step(varied, rng)
                if varied.shape != image.shape or varied.dtype != np.uint8:
                    raise ValueError(f"it returned {varied.dtype} {varied.shape} for uint8 {image.shape}")
        return varied


def _compose(augmentation: Augmentation) -> Any:
    active = [name for name in _list_active(augmentation) if name in AUGMENTATIONS]
    if not active:
        return None
    steps = [find_entry("augmentation", name).load().make_transform(getattr(augmentation, name)) for name in active]
    import albumentations

    return albumentations.Compose(steps)


def _list_active(augmentation: Augmentation) -> list[str]:
    return [name for name in (DELIVERY, *AUGMENTATIONS) if np.any(getattr(augmentation, name))]


def _build_other(name: str, options: Mapping[str, Any] | None) -> tuple[Entry, Any]:
    if name in (DELIVERY, *AUGMENTATIONS):
        raise ConfigError(f"data.augment.others: {name} is an option of its own: data.augment.{name}")
    entry = find_entry("augmentation", name, f"data.augment.others={{{name}: ...}}")
    step = entry.build(options)
    if not callable(step):
        raise ConfigError(f"augmentation {name}: {entry.module} needs a method __call__(image, rng).")
    return entry, step
