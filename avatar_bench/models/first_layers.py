"""Filters and feature maps of the first layers of a network."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avatar_bench.models.attribution import find_layout
from avatar_bench.models.inspection import is_stage
from avatar_bench.models.profiling import make_blank_image

if TYPE_CHECKING:
    from avatar_bench.models.classifier import Classifier

Float32Array = NDArray[np.float32]
MAX_STAGES = 2  # stages to show after the first convolution


class FeatureMaps(NamedTuple):
    """Outputs of the module `layer` for N images: `maps` (N, k, h, w) of the selected `channels` (k,)."""

    layer: str
    channels: NDArray[np.int64]
    maps: Float32Array


def find_first_convolution(net: nn.Module, size: int) -> str | None:
    """Return the name of the layer that reads the image, or None if it is not a convolution of three channels.

    In a transformer this is the patch embedding. `net` must be in eval mode.
    """
    ran: list[str] = []
    layers = {name: module for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    with torch.inference_mode(), ExitStack() as hooks:
        for name, module in layers.items():
            note = partial(lambda name, module, inputs: ran.append(name), name)
            hooks.enter_context(module.register_forward_pre_hook(note))
        net(make_blank_image(net, size))
    first = layers[ran[0]] if ran else None
    return ran[0] if isinstance(first, nn.Conv2d) and first.in_channels == 3 else None


def get_filters(net: nn.Module, convolution: str) -> Float32Array:
    """Return the weights (K, 3, h, w) of the convolution that reads the image."""
    return net.get_parameter(f"{convolution}.weight").detach().float().cpu().numpy().copy()


@torch.inference_mode()
def compute_feature_maps(
    classifier: Classifier, images: Tensor, convolution: str | None, most: int
) -> list[FeatureMaps]:
    """Compute the maps of the first convolution, if there is one, and of the first stages that timm lists.

    Selects in each the `most` channels that vary most over the uint8 images (N, 3, S, S), in descending order. Skips a
    stage whose output does not have the channels and the reduction that timm states.
    """
    net: Any = classifier.net
    listed = [dict(stage) for stage in getattr(net, "feature_info", None) or []]
    stages = [stage for stage in listed if is_stage(net.get_submodule(stage["module"]))][:MAX_STAGES]
    kept: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name in {*([convolution] if convolution else []), *(stage["module"] for stage in stages)}:
            hooks.enter_context(net.get_submodule(name).register_forward_hook(partial(_record_output, kept, name)))
        classifier(images.to(classifier.device))
    found = [(convolution, kept[convolution])] if convolution else []
    for stage in stages:
        output = kept.get(stage["module"])
        layer = find_layout(net, stage, tuple(output.shape), images.shape[-1]) if output is not None else None
        if output is not None and layer is not None and layer.name != convolution:
            found.append((layer.name, layer.to_map(output)))
    maps = []
    for name, output in found:
        values = output.float().cpu()
        spread = values.transpose(0, 1).flatten(1).std(dim=1, correction=0)
        channels = torch.argsort(spread, descending=True, stable=True)[:most]
        maps.append(FeatureMaps(name, channels.numpy(), values[:, channels].numpy()))
    return maps


def _record_output(kept: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    if isinstance(output, Tensor):
        kept[name] = output.clone()  # the next module may work in place
