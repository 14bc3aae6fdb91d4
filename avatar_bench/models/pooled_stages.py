"""A network whose embedding pools the features of several of its stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from avatar_bench.errors import ConfigError

POOLED_OPTION = "pooled_layers"  # of a card's network options
LAST_EMBEDDING = -1  # among the layers: the embedding that the network's own classifier would see
_EPSILON = 1e-6  # of the variance over positions, so that a constant map has a gradient, and noise is not magnified


class PooledStages(nn.Module):
    """A network of timm, the `body`, with a linear `head` on pooled features of some of its layers.

    `layers` are stages counted from the stem, of which mean and standard deviation over all positions are taken, and of
    one with a class token that token too, after the network's last norm; then LAST_EMBEDDING, if wanted. It has timm's
    interface. Without classes, it returns embeddings.
    """

    def __init__(self, body: Any, layers: Sequence[int], classes: int) -> None:
        super().__init__()
        self.body = body
        self.stages = [layer for layer in layers if layer != LAST_EMBEDDING]
        self.has_last = LAST_EMBEDDING in layers
        self.has_class_token = getattr(body, "cls_token", None) is not None
        # timm's networks without such tokens do not accept the argument
        self.prefix: dict[str, bool] = {"return_prefix_tokens": True} if self.has_class_token else {}
        self.feature_info = [{**stage, "module": f"body.{stage['module']}"} for stage in body.feature_info]
        self.num_prefix_tokens = getattr(body, "num_prefix_tokens", 0)
        self.pretrained_cfg = getattr(body, "pretrained_cfg", None)
        channels = sum(self.feature_info[stage]["num_chs"] for stage in self.stages)
        width = channels * (2 + self.has_class_token) + self.has_last * body.head_hidden_size
        self.head = nn.Linear(width, classes) if classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, D)."""
        early = not self.has_last
        found = self.body.forward_intermediates(
            images, self.stages, norm=True, stop_early=early, intermediates_only=early, **self.prefix
        )
        last, maps = (None, found) if early else found
        pooled: list[Tensor] = []
        for stage in maps:
            positions, tokens = stage if self.has_class_token else (stage, None)
            mean = positions.mean(dim=(2, 3))
            variance = (positions - mean[:, :, None, None]).square().mean(dim=(2, 3))
            pooled += [mean, (variance + _EPSILON).sqrt(), *([] if tokens is None else [tokens[:, 0]])]
        if self.has_last:
            pooled.append(self.body.forward_head(last, pre_logits=True))
        return torch.cat(pooled, dim=1)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of pooled features, or with `pre_logits` the features."""
        return features if pre_logits else self.head(features)

    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return self.head

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return a function from the name of a parameter to its layer group, numbered from the stem to the head."""
        groups = timm.models.group_parameters(self.body, self.body.group_matcher(coarse), reverse=True)
        last = max(groups.values()) + 1
        return lambda name: groups.get(name.removeprefix("body."), last)


def sort_layers(layers: Sequence[int]) -> list[int]:
    """Return layers from the stem to the head, LAST_EMBEDDING as the last."""
    return sorted(layers, key=lambda layer: (layer == LAST_EMBEDDING, layer))


def pool_stages(body: nn.Module, layers: object, classes: int, name: str) -> PooledStages:
    """Pool the features of the layers of a network without classifier; raise ConfigError if it lacks one of them."""
    stages: Any = getattr(body, "feature_info", [])
    has_stages = all(hasattr(body, each) for each in ("forward_intermediates", "head_hidden_size"))
    if not has_stages or not all("num_chs" in stage for stage in stages):
        raise ConfigError(
            f"mode.layers={layers}: timm cannot return the features of the stages of {name}.",
            "Expected mode.layers=[-1], its last embedding.",
        )
    count = len(stages)
    valid = isinstance(layers, list | tuple) and all(type(layer) is int for layer in layers)
    if not valid or not all(LAST_EMBEDDING <= layer < count for layer in layers):  # type: ignore[attr-defined]
        raise ConfigError(
            f"mode.layers={layers}: {name} has {count} stages.", f"Expected numbers from 0 to {count - 1}, and -1."
        )
    return PooledStages(body, sort_layers(layers), classes)  # type: ignore[arg-type]
