"""Attribution maps of a classifier, with sanity checks and deletion and insertion curves."""

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
from torch.nn.modules.module import register_module_forward_hook

from avatar_bench.console.progress import track
from avatar_bench.errors import BlockError

if TYPE_CHECKING:
    from avatar_bench.models.classifier import Classifier

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class SpatialLayer:
    """A module whose output is a map of `size` (h, w) cells, with the layout of that output.

    `layout` is "NCHW", "NHWC", or "tokens" (N, prefix + h w, C), where the first `prefix` tokens are not patches;
    `last` is True for the last stage of the network.
    """

    name: str
    layout: Literal["NCHW", "NHWC", "tokens"]
    size: tuple[int, int]
    prefix: int = 0
    last: bool = True

    def to_map(self, output: Tensor) -> Tensor:
        """Convert the module's output to (N, C, h, w)."""
        if self.layout == "NHWC":
            return output.permute(0, 3, 1, 2)
        if self.layout == "tokens":
            return output[:, self.prefix :].transpose(1, 2).reshape(len(output), -1, *self.size)
        return output

    def from_map(self, image: Tensor, output: Tensor) -> Tensor:
        """Convert (N, C, h, w) back to the module's layout; tokens that are not patches are taken from `output`."""
        if self.layout == "NHWC":
            return image.permute(0, 2, 3, 1)
        if self.layout == "tokens":
            return torch.cat([output[:, : self.prefix], image.flatten(2).transpose(1, 2)], dim=1)
        return image


@torch.inference_mode(False)
def find_spatial_layer(classifier: Classifier, images: Tensor) -> SpatialLayer:
    """Find the last stage whose output for an image is a map of several cells that the embedding depends on.

    In a transformer with a class token, the patches that leave the last block have no gradient, so the block's first
    norm, whose patches the attention reads, is used instead. Raises BlockError if no stage is left.
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
    reason = f"{classifier.card.backbone} has no stage whose output is a spatial map ({images.shape[-1]} pixel images)."
    raise BlockError(reason, "Grad-CAM cannot be computed for this network.")


@torch.inference_mode(False)
def compute_grad_cam(
    classifier: Classifier,
    layer: SpatialLayer,
    images: Tensor,
    classes: NDArray[np.integer],
    batch_size: int = 32,
    rectify: bool = True,
) -> Float32Array:
    """Compute the Grad-CAM map (N, h, w) of one class (N,) for each uint8 image (N, 3, S, S), at the layer's size.

    With `rectify=False`, evidence against the class is kept as negative values. Works on a copy of the network.
    Selvaraju et al., ICCV 2017, https://arxiv.org/abs/1610.02391
    """
    from captum.attr import LayerGradCam  # slow to import, and not needed for a saved Result

    net = _copy_frozen(classifier)
    probe = nn.Identity()
    net.net.get_submodule(layer.name).register_forward_hook(
        lambda module, inputs, output: layer.from_map(probe(layer.to_map(output)), output)
    )
    attributor, maps = LayerGradCam(lambda batch: net(batch)[0], probe), []
    batches = list(zip(torch.split(images, batch_size), torch.split(torch.as_tensor(classes), batch_size), strict=True))
    for batch, target in track(batches, "maps", unit="batch"):
        arguments = {"target": target.to(net.device), "relu_attributions": rectify}
        maps.append(attributor.attribute(batch.to(net.device), **arguments).detach()[:, 0].float().cpu())
    return torch.cat(maps).numpy()


@torch.inference_mode()
def compute_attention_rollout(classifier: Classifier, images: Tensor, batch_size: int = 32) -> Float32Array | None:
    """Compute the attention rollout from the class token to each patch, (N, h, w), for uint8 images (N, 3, S, S).

    The attention of each layer, averaged over heads, is averaged with the identity (the residual connection), and the
    layers are multiplied: Abnar, Zuidema, ACL 2020, https://arxiv.org/abs/2005.00928. Returns None unless the network
    pools by a class token that attends to all patches in every layer.
    """
    net = _copy_frozen(classifier)
    layers, side = _find_attention_layers(net, images[:1])
    flow: list[Tensor] = []

    def accumulate(module: nn.Module, inputs: Any, weights: Tensor) -> None:
        """Replace the rollout (N, T, T) to the input tokens by that after a layer with weights (N, heads, T, T)."""
        mixed = (weights.float().mean(dim=1) + torch.eye(weights.shape[-1], device=weights.device)) / 2
        flow.append(mixed @ flow.pop() if flow else mixed)

    for layer in layers:
        layer.register_forward_hook(accumulate)
    maps = []
    for batch in track(torch.split(images, batch_size) if layers else [], "attention", unit="batch"):
        net(batch.to(net.device))
        maps.append(flow.pop()[:, 0, -(side**2) :].reshape(-1, side, side).cpu())
    return torch.cat(maps).numpy() if maps else None


@torch.inference_mode(False)
def randomise_layers(classifier: Classifier, seed: int = 0, steps: int = 4) -> Iterator[tuple[int, int, Classifier]]:
    """Yield copies with randomised weights, from the head downward: (groups randomised, number of groups, copy).

    This is cascading randomisation in at most `steps` copies, the last of which keeps no weight. Adebayo et al.,
    NeurIPS 2018, https://arxiv.org/abs/1810.03292
    """
    from avatar_bench.models.backbones import create_backbone
    from avatar_bench.models.stages import list_layer_groups  # imports timm

    card = classifier.card
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = create_backbone(card.backbone, len(card.classes), options=card.options).state_dict()
    groups = list_layer_groups(classifier.net)
    for drawn in sorted({round(k) for k in np.linspace(len(groups), 1, steps)}):
        net = _copy_frozen(classifier)
        # with their running statistics
        modules = {name.rpartition(".")[0] for group in groups[-drawn:] for name in group}
        state = {key: value for key, value in fresh.items() if key.rpartition(".")[0] in modules}
        net.net.load_state_dict(state, strict=False)
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
    """Compute the probability (N, steps + 1) of one class (N,) while the pixels of `start` are replaced by `end`.

    `start` and `end` are uint8 (N, 3, S, S); `ranks` (N, S, S) is the order of replacement, from 0. From the image to a
    baseline this is the deletion curve, from a baseline to the image the insertion curve; Petsiuk et al., BMVC 2018,
    https://arxiv.org/abs/1806.07421. Probabilities are scaled by the card's temperature.
    """
    counts = np.round(np.linspace(0, ranks[0].size, steps + 1)).astype(int).tolist()
    curves, parts = [], [torch.split(torch.as_tensor(part), batch_size) for part in (start, end, ranks, classes)]
    for batch in track(list(zip(*parts, strict=True)), "replacement curves", unit="batch"):
        first, last, order, wanted = (part.to(classifier.device) for part in batch)
        with torch.inference_mode():
            logits = [classifier.compute(torch.where(order[:, None] < count, last, first))[0] for count in counts]
            scores = torch.softmax(torch.stack(logits, dim=1).double() / classifier.card.temperature, dim=2)
        curves.append(scores[torch.arange(len(wanted), device=wanted.device), :, wanted].float().cpu())
    return torch.cat(curves).numpy()


def make_baseline(images: Tensor, kind: str) -> Tensor:
    """Return uint8 images (N, 3, S, S) without content: of their "mean" colour, or "blur" (Petsiuk et al.)."""
    if kind == "mean":
        return images.float().mean(dim=(2, 3), keepdim=True).round().to(torch.uint8).expand_as(images)
    from torchvision.transforms.v2 import functional

    return functional.gaussian_blur(images, kernel_size=[11, 11], sigma=[5.0, 5.0])  # type: ignore[attr-defined, no-any-return]


def find_layout(
    net: nn.Module, stage: Mapping[str, Any], shape: tuple[int, ...], side: int, last: bool = True
) -> SpatialLayer | None:
    """Return the layout of a stage's output for images of `side` pixels; None if it is not the map timm states."""
    name, channels = stage["module"], stage.get("num_chs")  # a user's network states neither channels nor reduction
    if len(shape) == 4 and (channels is None or shape[1] == channels != shape[3]):
        return SpatialLayer(name, "NCHW", shape[2:], last=last)
    if len(shape) == 4 and shape[3] == channels != shape[1]:
        return SpatialLayer(name, "NHWC", shape[1:3], last=last)
    if len(shape) == 3 and channels in (None, shape[2]):
        cells = math.ceil(side / stage["reduction"]) if "reduction" in stage else math.isqrt(shape[1])
        prefix = shape[1] - cells**2
        if prefix in (0, getattr(net, "num_prefix_tokens", 0)):
            return SpatialLayer(name, "tokens", (cells, cells), prefix, last)
    return None


def _copy_frozen(classifier: Classifier) -> Classifier:
    """Copy a classifier without parameter gradients; tensors made in inference mode become ordinary ones."""
    return copy.deepcopy(classifier).eval().requires_grad_(False)


def _run_stages(
    net: Classifier, stages: list[dict[str, Any]], image: Tensor
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return the output of each stage of a copy for one image, and the gradient of the embedding by it."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> Any:
        if not isinstance(output, Tensor):
            return output
        kept[name] = output if output.requires_grad else output.requires_grad_()
        return output.clone()  # the next module may work in place

    for name in (stage["module"] for stage in stages):
        module = net.net.get_submodule(name)
        module.register_forward_hook(lambda module, inputs, output, name=name: keep(name, output))
    with torch.enable_grad():
        _, embeddings = net(image.to(net.device))  # the head may be all zeros: no gradient of logits
    if not kept:
        return {}
    gradients = torch.autograd.grad(embeddings.abs().sum(), list(kept.values()), allow_unused=True)
    return {name: (kept[name], gradient) for name, gradient in zip(kept, gradients, strict=True)}


def _find_attention_layers(net: Classifier, image: Tensor) -> tuple[list[nn.Module], int]:
    """Return the modules that attention weights pass through, made to be exposed, and the side of the patch grid.

    Returns none if a layer does not attend from all tokens to all, or the network does not pool by its class token.
    """
    layers: list[Any] = [module for module in net.net.modules() if hasattr(module, "fused_attn")]
    passed = [layer.attn_drop for layer in layers if isinstance(getattr(layer, "attn_drop", None), nn.Module)]
    reads = getattr(net.net, "cls_token", None) is not None and getattr(net.net, "global_pool", None) == "token"
    if not reads or not passed or len(passed) < len(layers):
        return [], 0
    for layer in layers:
        layer.fused_attn = False
    shapes: list[tuple[int, ...]] = []

    def record_shape(module: nn.Module, inputs: Any, weights: Any) -> None:
        if module in passed:
            shapes.append(tuple(weights.shape))

    with register_module_forward_hook(record_shape):
        net(image.to(net.device))
    tokens, prefix = shapes[0][-1], int(getattr(net.net, "num_prefix_tokens", 1))
    side = math.isqrt(tokens - prefix)
    whole = len(shapes) == len(layers) and {shape[-2:] for shape in shapes} == {(prefix + side**2,) * 2}
    return (passed, side) if whole else ([], 0)
