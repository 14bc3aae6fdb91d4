"""Check whether weights fit a network, before the network takes any memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from avatar_bench.models.backbones import create_backbone

STATE_PREFIX = "net."
SPARE_BYTES = 1024**3  # bytes that a network may need besides its weights, such as for masks
_MODULES_PER_TENSOR = 50  # modules that a network may have per tensor of its weights
_MAX_COPIES = 4  # times that a weight may be created during construction, as timm does for a new classifier


def refuse_incompatible(state: Any, backbone: str, classes: int, options: Mapping[str, Any]) -> None:
    """Raise ValueError if a state dict does not fit a network or is not finite, ConfigError for an unknown network."""
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError("it has none")
    with torch.device("meta"), limit_size(state):
        own = create_backbone(backbone, classes, options=options).state_dict()
    expected = {f"{STATE_PREFIX}{name}": (tensor.shape, tensor.dtype) for name, tensor in own.items()}
    if odd := sorted(map(str, expected.keys() ^ state.keys())):
        raise ValueError(f"{len(odd)} are missing or unexpected, first {odd[0][:80]}")
    for name, tensor in state.items():
        if (tensor.shape, tensor.dtype) != expected[name]:
            raise ValueError(f"{name} has another shape or type")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} contains a non-finite value")


@contextmanager
def limit_size(state: Mapping[str, Tensor]) -> Iterator[None]:
    """Raise ValueError when a network under construction grows far beyond the size of its weights."""
    room = {
        "modules": _MODULES_PER_TENSOR * (len(state) + 100),
        "tensors": _MAX_COPIES * (len(state) + 100),
        "bytes": _MAX_COPIES * (sum(tensor.nbytes for tensor in state.values()) + SPARE_BYTES),
    }

    def take(**parts: int) -> None:
        for name, count in parts.items():
            room[name] -= count
            if room[name] < 0:
                raise _TooLargeError

    def tensor(module: nn.Module, name: str, made: Tensor | None) -> None:
        if made is not None:
            take(tensors=1, bytes=made.nbytes)

    try:
        with (
            hooks.register_module_module_registration_hook(lambda module, name, made: take(modules=1)),
            hooks.register_module_parameter_registration_hook(tensor),
            hooks.register_module_buffer_registration_hook(tensor),
        ):
            yield
    except _TooLargeError as error:
        raise ValueError("the network is far larger than its weights") from error


class _TooLargeError(BaseException):
    """An error in a network that outgrows its weights; a BaseException, because constructors may catch Exception."""
