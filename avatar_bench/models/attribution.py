"""Attribution: where in an image a classifier finds its evidence, and whether it does not only seem so."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avatar_bench.errors import BlockError

if TYPE_CHECKING:
    from avatar_bench.models.classifier import Classifier

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class SpatialLayer:
    """Name a module whose output is a map of `size` (h, w) cells, and say how that output is laid out.

    `layout` is "NCHW", "NHWC", or "tokens" (N, prefix + h w, C), of which the first `prefix` are no patches; `last`
    tells whether it is the last stage of the network.
    """

    name: str
    layout: Literal["NCHW", "NHWC", "tokens"]
    size: tuple[int, int]
    prefix: int = 0
    last: bool = True

    def to_map(self, output: Tensor) -> Tensor:
        """Turn the module's output into (N, C, h, w)."""
        if self.layout == "NHWC":
            return output.permute(0, 3, 1, 2)
        if self.layout == "tokens":
            return output[:, self.prefix :].transpose(1, 2).reshape(len(output), -1, *self.size)
        return output

    def from_map(self, image: Tensor, output: Tensor) -> Tensor:
        """Turn (N, C, h, w) back into what the next module expects; `output` lends the tokens that are no patches."""
        if self.layout == "NHWC":
            return image.permute(0, 2, 3, 1)
        if self.layout == "tokens":
            return torch.cat([output[:, : self.prefix], image.flatten(2).transpose(1, 2)], dim=1)
        return image


@torch.inference_mode(False)
def find_spatial_layer(classifier: Classifier, images: Tensor) -> SpatialLayer:
    """Find the last stage whose output is a map that the embedding depends on, by a dry pass of one image.

    It is the first of `images`, uint8 (N, 3, S, S). Passed over are maps of a single cell and outputs of another shape
    than the stage claims. Patches that leave the last block of a transformer that is read off its class token have no
    gradient: there it is the block's first norm, whose patches its attention reads. Raises BlockError where no stage is
    left.
    """
    net = _copy_frozen(classifier)
    modules = dict(net.net.named_modules())
    listed = [dict(stage) for stage in getattr(net.net, "feature_info", None) or []]
    begun = [{**stage, "module": f"{stage['module']}.norm1"} for stage in listed]
    stages = [step for pair in zip(begun, listed, strict=True) for step in pair if step["module"] in modules]
    outputs = _run_stages(net, stages, images[:1])
    for stage in reversed(stages):
        output, gradient = outputs.get(stage["module"], (None, None))
        if output is None or gradient is None:
            continue
        layer = find_layout(net.net, stage, tuple(output.shape), images.shape[-1], stage in (begun[-1], listed[-1]))
        if layer is not None and math.prod(layer.size) > 1 and layer.to_map(gradient).any():
            return layer
    raise BlockError(
        f"{classifier.card.backbone} has no stage whose output is a map of its images ({images.shape[-1]} pixels):",
        "Grad-CAM has nothing to show for it.",
    )


@torch.inference_mode(False)
def compute_grad_cam(
    classifier: Classifier,
    layer: SpatialLayer,
    images: Tensor,
    classes: NDArray[np.integer],
    batch_size: int = 32,
    rectify: bool = True,
) -> Float32Array:
    """Give the Grad-CAM map (N, h, w) of one class (N,) for each of the uint8 images (N, 3, S, S), never enlarged.

    Without `rectify`, evidence against the class stays, as negative values. The network is not touched: a copy is read.
    Selvaraju et al., ICCV 2017, https://arxiv.org/abs/1610.02391
    """
    from captum.attr import LayerGradCam  # it takes longer than a kept Result does

    net = _copy_frozen(classifier)
    probe = nn.Identity()
    net.net.get_submodule(layer.name).register_forward_hook(
        lambda module, inputs, output: layer.from_map(probe(layer.to_map(output)), output)
    )
    attributor, wanted, maps = LayerGradCam(lambda batch: net(batch)[0], probe), torch.as_tensor(classes), []
    for rows in _slice_batches(len(images), batch_size):
        batch, target = images[rows].to(net.device), wanted[rows].to(net.device)
        maps.append(attributor.attribute(batch, target=target, relu_attributions=rectify).detach()[:, 0].float().cpu())
    return torch.cat(maps).numpy()


@torch.inference_mode()
def compute_attention_rollout(classifier: Classifier, images: Tensor, batch_size: int = 32) -> Float32Array | None:
    """Give how much of each patch the class token holds, (N, h, w), for uint8 images (N, 3, S, S), whatever the class.

    Each layer's attention, its mean over heads, is averaged with the identity (the shortcut), and the layers are
    multiplied: Abnar, Zuidema, ACL 2020, https://arxiv.org/abs/2005.00928. What the class token holds of itself is left
    out, so that a map sums to less than 1. None where the network is not read off a class token that attends to all
    patches in each layer.
    """
    net = _copy_frozen(classifier)
    layers, side = _find_attention_layers(net, images[:1])
    flow: list[Tensor] = []
    for layer in layers:
        layer.register_forward_hook(
            lambda module, inputs, weights: flow.append(_accumulate_attention(weights, flow.pop() if flow else None))
        )
    maps = []
    for rows in _slice_batches(len(images), batch_size) if layers else []:
        net(images[rows].to(net.device))
        maps.append(flow.pop()[:, 0, -(side**2) :].reshape(-1, side, side).cpu())
    return torch.cat(maps).numpy() if maps else None


@torch.inference_mode(False)
def randomise_layers(classifier: Classifier, seed: int = 0, steps: int = 4) -> Iterator[tuple[int, int, Classifier]]:
    """Give copies whose weights are drawn anew from the head downward: (layer groups drawn, groups in all, copy).

    The last of the (at most) `steps` copies keeps no weight. Adebayo et al., NeurIPS 2018,
    https://arxiv.org/abs/1810.03292
    """
    from avatar_bench.models.backbones import create_backbone
    from avatar_bench.models.stages import list_layer_groups  # with timm

    card = classifier.card
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = create_backbone(card.backbone, len(card.classes), options=card.options).state_dict()
    groups = list_layer_groups(classifier.net)
    for drawn in sorted({round(k) for k in np.linspace(len(groups), 1, steps)}):
        net = _copy_frozen(classifier)
        net.net.load_state_dict(
            _select_modules(fresh, [name for group in groups[-drawn:] for name in group]), strict=False
        )
        yield drawn, len(groups), net


def compute_replacement_curves(
    classifier: Classifier,
    start: Tensor,
    end: Tensor,
    ranks: NDArray[np.integer],
    classes: NDArray[np.integer],
    steps: int = 16,
    batch_size: int = 32,
) -> Float32Array:
    """Give the probability (N, steps + 1) of one class (N,) while images turn into others, pixel by pixel.

    `start` and `end` are uint8 (N, 3, S, S); `ranks` (N, S, S), from 0, say which pixels are replaced first. From the
    image to a void this is deletion, from a void to the image insertion; Petsiuk et al., BMVC 2018,
    https://arxiv.org/abs/1806.07421. Probabilities are scaled by the card's temperature.
    """
    counts = np.round(np.linspace(0, ranks[0].size, steps + 1)).astype(int).tolist()
    curves = []
    for rows in _slice_batches(len(start), batch_size):
        first, last, order, wanted = (
            torch.as_tensor(part)[rows].to(classifier.device) for part in (start, end, ranks, classes)
        )
        with torch.inference_mode():
            logits = [classifier(torch.where(order[:, None] < count, last, first))[0] for count in counts]
            scores = torch.softmax(torch.stack(logits, dim=1).double() / classifier.card.temperature, dim=2)
        curves.append(scores[torch.arange(len(wanted), device=wanted.device), :, wanted].float().cpu())
    return torch.cat(curves).numpy()


def make_baseline(images: Tensor, kind: str) -> Tensor:
    """Give what images (N, 3, S, S) uint8 are without their content: their "mean" colour, or themselves under "blur".

    The blur is that of Petsiuk et al.: 11 pixels, sigma 5.
    """
    if kind == "mean":
        return images.float().mean(dim=(2, 3), keepdim=True).round().to(torch.uint8).expand_as(images)
    from torchvision.transforms.v2.functional import (  # type: ignore[attr-defined]  # it lacks a marker
        gaussian_blur,
    )

    return gaussian_blur(images, kernel_size=[11, 11], sigma=[5.0, 5.0])  # type: ignore[no-any-return]


def find_layout(
    net: nn.Module, stage: Mapping[str, Any], shape: tuple[int, ...], side: int, last: bool = True
) -> SpatialLayer | None:
    """Return how the output of a stage of timm's feature_info is laid out; None where it is no map of what that claims.

    `shape` is the output's, of images of `side` pixels.
    """
    name, channels = stage["module"], stage["num_chs"]
    if len(shape) == 4 and (shape[1] == channels) != (shape[3] == channels):
        if shape[1] == channels:
            return SpatialLayer(name, "NCHW", shape[2:], last=last)
        return SpatialLayer(name, "NHWC", shape[1:3], last=last)
    if len(shape) == 3 and shape[2] == channels:
        cells = math.ceil(side / stage["reduction"])
        prefix = shape[1] - cells**2
        if prefix in (0, getattr(net, "num_prefix_tokens", 0)):
            return SpatialLayer(name, "tokens", (cells, cells), prefix, last)
    return None


def _slice_batches(n: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, n, size)]


def _copy_frozen(classifier: Classifier) -> Classifier:
    """Copy a classifier for gradients of its maps alone; tensors made in inference mode become ordinary ones."""
    return copy.deepcopy(classifier).eval().requires_grad_(False)


def _run_stages(
    net: Classifier, stages: list[dict[str, Any]], image: Tensor
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Give the output of each stage's module for one image, and the gradient of the embedding to it."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> Any:
        if not isinstance(output, Tensor):
            return output
        kept[name] = output if output.requires_grad else output.requires_grad_()
        return output.clone()  # what follows may work in place

    hooks = [
        net.net.get_submodule(name).register_forward_hook(lambda module, inputs, output, name=name: keep(name, output))
        for name in (stage["module"] for stage in stages)
    ]
    with torch.enable_grad():
        _, embeddings = net(image.to(net.device))  # logits say nothing where a new head is all zeros
    for hook in hooks:
        hook.remove()
    if not kept:
        return {}
    gradients = torch.autograd.grad(embeddings.abs().sum(), list(kept.values()), allow_unused=True)
    return {name: (kept[name], gradient) for name, gradient in zip(kept, gradients, strict=True)}


def _find_attention_layers(net: Classifier, image: Tensor) -> tuple[list[nn.Module], int]:
    """Give what the attention weights of each layer pass through, and the side of the grid of patches.

    None are given where a layer's are not of all tokens to all, or the class token is not what the network is read off.
    Fused attention, which tells no weights, is turned off.
    """
    layers: list[Any] = [module for module in net.net.modules() if hasattr(module, "fused_attn")]
    passed = [layer.attn_drop for layer in layers if isinstance(getattr(layer, "attn_drop", None), nn.Module)]
    reads = getattr(net.net, "cls_token", None) is not None and getattr(net.net, "global_pool", None) == "token"
    if not reads or not passed or len(passed) < len(layers):
        return [], 0
    shapes: list[tuple[int, ...]] = []
    for layer in layers:
        layer.fused_attn = False
    hooks = [
        layer.attn_drop.register_forward_hook(lambda module, inputs, found: shapes.append(tuple(found.shape)))
        for layer in layers
    ]
    net(image.to(net.device))
    for hook in hooks:
        hook.remove()
    tokens, prefix = shapes[0][-1], int(getattr(net.net, "num_prefix_tokens", 1))
    side = math.isqrt(tokens - prefix)
    whole = len(shapes) == len(layers) and {shape[-2:] for shape in shapes} == {(prefix + side**2,) * 2}
    return (passed, side) if whole else ([], 0)


def _accumulate_attention(weights: Tensor, before: Tensor | None) -> Tensor:
    """Give what each token holds of the first ones, (N, T, T), after a layer of attention weights (N, heads, T, T)."""
    eye = torch.eye(weights.shape[-1], device=weights.device)
    mixed = (weights.float().mean(dim=1) + eye) / 2
    return mixed if before is None else mixed @ before


def _select_modules(state: Mapping[str, Tensor], parameters: list[str]) -> dict[str, Tensor]:
    """Give the state of the modules that have these parameters, running statistics among it."""
    modules = {name.rpartition(".")[0] for name in parameters}
    return {key: value for key, value in state.items() if key.rpartition(".")[0] in modules}
