"""Stages of fine-tuning, and the layers that each of them trains."""

from __future__ import annotations

from dataclasses import dataclass

import timm
from torch import nn

from avatar_bench.errors import ConfigError


@dataclass(frozen=True)
class Stage:
    """A stage that trains `unfreeze` ("classifier", "all", or a number of timm's layer groups) for `epochs` at `lr`."""

    unfreeze: str | int
    epochs: int
    lr: float


def freeze(net: nn.Module, unfreeze: str | int) -> list[str]:
    """Freeze all layers but those of `unfreeze`; return the names of the trained parameters in the network's order."""
    if unfreeze == "classifier":
        head = {id(parameter) for parameter in net.get_classifier().parameters()}  # type: ignore[operator]
        wanted = {name for name, parameter in net.named_parameters() if id(parameter) in head}
    elif unfreeze == "all":
        wanted = {name for name, _ in net.named_parameters()}
    else:
        groups = list_layer_groups(net)
        if not isinstance(unfreeze, int) or not 1 <= unfreeze <= len(groups):
            raise ConfigError(
                f"mode.stages: unfreeze={unfreeze!r} is invalid for this network.",
                f"Expected classifier, all, or 1 to {len(groups)} layer groups, counted from the head.",
            )
        wanted = {name for group in groups[-unfreeze:] for name in group}
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in wanted)
    return [name for name, _ in net.named_parameters() if name in wanted]


def set_frozen_to_eval(module: nn.Module) -> None:
    """Set modules whose parameters are all frozen to eval mode, and norms without parameters in partly frozen ones."""
    is_trained = [parameter.requires_grad for parameter in module.parameters()]
    if is_trained and not any(is_trained):
        module.eval()
    elif not all(is_trained):
        for child in module.children():
            set_frozen_to_eval(child)
            if next(child.parameters(), None) is None:
                for norm in list_tracking_norms(child):
                    norm.eval()


def list_tracking_norms(net: nn.Module) -> list[nn.Module]:
    """List the modules that keep running statistics in training mode."""
    return [module for module in net.modules() if getattr(module, "track_running_stats", False)]


def list_layer_groups(net: nn.Module) -> list[list[str]]:
    """List the parameter names of timm's coarse layer groups, from the stem to the head."""
    groups = timm.models.group_parameters(net, net.group_matcher(coarse=True))  # type: ignore[operator]
    return [groups[key] for key in sorted(groups)]
