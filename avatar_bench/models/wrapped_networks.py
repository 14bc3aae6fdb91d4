"""Networks that get timm's interface: those of users, and those whose embedding pools several stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from avatar_bench.config.instantiate import build, check_node
from avatar_bench.config.validation import TARGET
from avatar_bench.errors import AvatarBenchError, ConfigError
from avatar_bench.files.document import read_yaml
from avatar_bench.files.hashes import sha256_of_file, sha256_of_text

POOLED_OPTION = "pooled_layers"  # of a card's network options
LAST_EMBEDDING = -1  # among the layers: the embedding that the network's own classifier would see
_EPSILON = 1e-6  # of the variance over positions, so that a constant map has a gradient, and noise is not magnified
_INTERFACE = ("forward_features", "forward_head", "get_classifier", "group_matcher", "feature_info")  # of timm


class _HeadedNetwork(nn.Module):
    """A network with timm's interface: the classifier `head` reads what `forward_features` returns."""

    head: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))  # type: ignore[operator]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of embeddings, or with `pre_logits` the embeddings."""
        return features if pre_logits else self.head(features)

    def get_classifier(self) -> nn.Module:
        return self.head


class PlainNetwork(_HeadedNetwork):
    """A plain module with timm's interface: its classifier is `head`, all that runs before it `body`.

    `classifier` is the name of its last layer, an nn.Linear, and `feature_layer` that of the last layer whose output is
    a map (N, C, h, w) or tokens (N, [1 +] h w, C). Without `has_head`, the network returns embeddings.
    """

    num_prefix_tokens = 1  # the most: a class token

    def __init__(self, net: nn.Module, classifier: str, feature_layer: str, has_head: bool = True) -> None:
        super().__init__()
        head = net.get_submodule(classifier)
        if not isinstance(head, nn.Linear):
            raise TypeError(f"classifier={classifier} is {type(head).__name__}; expected the last nn.Linear")
        net.get_submodule(feature_layer)  # raises AttributeError
        parent, _, name = classifier.rpartition(".")
        setattr(net.get_submodule(parent), name, nn.Identity())
        self.body, self.head = net, head if has_head else nn.Identity()
        self.feature_info = [{"module": f"body.{feature_layer}"}]

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the embeddings: the body pools its features itself."""
        return self.body(images)  # type: ignore[no-any-return]

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return a function from a parameter's name to its layer group: the weighted children of the body in order."""
        path, parts = "body", _list_weighted(self.body)
        while len(parts) == 1 and (inner := _list_weighted(self.get_submodule(f"{path}.{parts[0]}"))):
            path, parts = f"{path}.{parts[0]}", inner
        stages = [f"{path}.{part}." for part in parts]

        def find_group(name: str) -> int:
            inside = next((number for number, stage in enumerate(stages, 1) if name.startswith(stage)), 0)
            return len(stages) + 1 if name.startswith("head.") else inside

        return find_group


class PooledStages(_HeadedNetwork):
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

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, D)."""
        early = not self.has_last
        stages = self.body.forward_intermediates(
            images, self.stages, norm=True, stop_early=early, intermediates_only=early, **self.prefix
        )
        last, maps = (None, stages) if early else stages
        pooled: list[Tensor] = []
        for stage in maps:
            positions, tokens = stage if self.has_class_token else (stage, None)
            mean = positions.mean(dim=(2, 3))
            variance = (positions - mean[:, :, None, None]).square().mean(dim=(2, 3))
            pooled += [mean, (variance + _EPSILON).sqrt(), *([] if tokens is None else [tokens[:, 0]])]
        if self.has_last:
            pooled.append(self.body.forward_head(last, pre_logits=True))
        return torch.cat(pooled, dim=1)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return a function from the name of a parameter to its layer group, numbered from the stem to the head."""
        groups = timm.models.group_parameters(self.body, self.body.group_matcher(coarse), reverse=True)
        last = max(groups.values()) + 1
        return lambda name: groups.get(name.removeprefix("body."), last)


def checkpoint_filter_fn(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Rename the weights of a plain module to those of its PlainNetwork; timm's networks have a function so named."""
    return {f"body.{name}": tensor for name, tensor in state.items()}


@dataclass(frozen=True)
class NetworkNode:
    """A user's network, which the file backbone/NAME.yaml states as {_target_: CLASS, argument: value, ...}.

    The text {classes} in an argument stands for their number, and `options` of the model replace arguments. A network
    without timm's interface names its last layer, `classifier`, and its last layer with a map, `feature_layer`.
    """

    file: Path
    arguments: Mapping[str, Any]
    layers: tuple[str, str] | None

    @classmethod
    def read(cls, file: Path) -> NetworkNode:
        """Read the node of a file; raise ConfigError if it names no class."""
        stated = read_yaml(file)
        if not isinstance(stated, dict) or not isinstance(stated.get(TARGET), str):
            raise ConfigError(f"{file}: expected {TARGET}: CLASS and its arguments.", "See docs/extending.md.")
        classifier, feature_layer = (stated.pop(key, None) for key in ("classifier", "feature_layer"))
        return cls(file, stated, (classifier, feature_layer) if classifier and feature_layer else None)

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the yaml and of all modules of the user's folder."""
        modules = sorted(self.file.parents[1].rglob("*.py"))
        return sha256_of_text(" ".join(sha256_of_file(file) for file in (self.file, *modules)))

    def build(self, classes: int, options: Mapping[str, Any]) -> nn.Module:
        """Build the network with random weights; raise ConfigError, with the reason, if that is not possible."""
        option, node = f"backbone.{self.file.stem}", {**self.arguments, **options}
        check_node(option, node)
        return build(option, node, nn.Module, classes=classes)  # type: ignore[no-any-return]


def build_user_network(node: NetworkNode, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """Build a user's network with timm's interface, for 0 `classes` without head; raise ConfigError on failure."""
    # torch's fused transformer layer cannot be exported, and hides its products where operations are counted
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.device("cpu"):  # on the meta device, code that reads values of tensors would fail
            # a plain module is built with a classifier, which is then removed
            return _add_interface(node, node.build(classes or int(node.layers is not None), options), classes > 0)
    except AvatarBenchError:
        raise
    except Exception as error:  # of names of layers
        raise _explain(node, f"cannot be built: {error or type(error).__name__}") from error


@torch.no_grad()
def refuse_unfit_network(node: NetworkNode, options: Mapping[str, Any], size: int) -> None:
    """Raise ConfigError unless a user's network maps images of `size` pixels to logits by its classifier."""
    images = torch.rand(2, 3, size, size)
    try:
        net: Any = node.build(3, options).eval()
        logits = net(images)
        net = _add_interface(node, net)
        again = net.get_classifier()(net.forward_head(net.forward_features(images), pre_logits=True))
    except AvatarBenchError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise _explain(node, f"cannot be used on images of {size} pixels: {error or type(error).__name__}") from error
    shape = tuple(getattr(logits, "shape", ())) or type(logits).__name__
    if shape != (2, 3):
        raise _explain(node, f"returns {shape} for 2 images and 3 classes, not logits (2, 3).")
    if again.shape != logits.shape or not torch.allclose(again, logits, rtol=1e-3, atol=1e-4):
        raise _explain(node, "changes the outputs of its classifier, which must be its last layer.")


def pool_stages(body: nn.Module, layers: object, classes: int, name: str) -> PooledStages:
    """Pool the features of the layers of a network without classifier; raise ConfigError if it lacks one of them."""
    stages: Any = getattr(body, "feature_info", [])
    has_stages = all(hasattr(body, attribute) for attribute in ("forward_intermediates", "head_hidden_size"))
    if not has_stages or not all("num_chs" in stage for stage in stages):
        raise ConfigError(
            f"mode.layers={layers}: timm cannot return the features of the stages of {name}.",
            "Expected mode.layers=[-1], its last embedding.",
        )
    count = len(stages)
    valid = isinstance(layers, list | tuple) and all(type(layer) is int for layer in layers)
    if not valid or not all(LAST_EMBEDDING <= layer < count for layer in layers):  # type: ignore[attr-defined]
        reason = f"mode.layers={layers}: {name} has {count} stages."
        raise ConfigError(reason, f"Expected numbers from 0 to {count - 1}, and -1.")
    return PooledStages(body, sort_layers(layers), classes)  # type: ignore[arg-type]


def sort_layers(layers: Sequence[int]) -> list[int]:
    """Return layers from the stem to the head, LAST_EMBEDDING as the last."""
    return sorted(layers, key=lambda layer: (layer == LAST_EMBEDDING, layer))


def _add_interface(node: NetworkNode, net: nn.Module, has_head: bool = True) -> nn.Module:
    if node.layers:
        return PlainNetwork(net, *node.layers, has_head)
    if missing := [name for name in _INTERFACE if not hasattr(net, name)]:
        raise TypeError(f"no classifier and feature_layer are stated, and it lacks timm's {', '.join(missing)}")
    return net


def _explain(node: NetworkNode, fault: str) -> ConfigError:
    return ConfigError(
        f"model.backbone={node.file.stem}: the network {fault.splitlines()[0]}", f"Check {node.file} and model.options."
    )


def _list_weighted(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_children() if any(True for _ in child.parameters())]
