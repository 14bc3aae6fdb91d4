"""Stages, layers and depth of a network, and filters and feature maps of its first layers, found by forward passes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from avatar_bench.models.attribution import find_layout
from avatar_bench.models.profiling import count_flops, count_layer_bytes, make_blank_image

if TYPE_CHECKING:
    from avatar_bench.models.classifier import Classifier

STEM, HEAD = "stem", "head"
_SQUEEZE_TYPES = ("SqueezeExcite", "SEModule", "EffectiveSEModule")  # timm's classes of squeeze-and-excitation
_NORMS = {"layer": nn.LayerNorm, "group": nn.GroupNorm, "RMS": nn.RMSNorm, "instance": _InstanceNorm}
_NORMS |= {"batch": _NormBase}  # of which those of instances are a kind
_CONV_OR_LINEAR = (nn.modules.conv._ConvNd, nn.Linear)
_MATRIX_PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm)
Shape = tuple[int, ...]
Float32Array = NDArray[np.float32]
MAX_STAGES = 2  # stages to show after the first convolution


class NetworkSummary(NamedTuple):
    """Tables of stages and of layers, the number of layers with weights on the longest path, and the key traits.

    `stages`: stage, module, blocks, block_type, params, macs, output, stride, normalisation, activation. `layers`, in
    the order they run: stage, module, type, params, bytes, macs, on_longest_path, input, output, kernel, stride. In
    both, params and macs (for one image) sum to those of the network; so do the stored bytes, and on_longest_path
    (how often the layer lies on it: 1 or 0) sums to the depth. `input` (of the first layer, the image) and `output`
    are shapes without the batch, such as "64 x 56 x 56"; the stride of a stage is the side of the image over the side
    of its output, that of a layer its own. `traits`: family, core_block (the two commonest), squeeze_excitation (their
    number), depthwise (kernels of the depthwise convolutions), attention, patch (side of the patches that the first
    convolution cuts), normalisation and activation (the commonest first); "" for a missing trait.
    """

    stages: pd.DataFrame
    layers: pd.DataFrame
    depth: int
    traits: dict[str, Any]


class FeatureMaps(NamedTuple):
    """Outputs of the module `layer` for N images: `maps` (N, k, h, w) of the selected `channels` (k,)."""

    layer: str
    channels: NDArray[np.int64]
    maps: Float32Array


def inspect_network(net: nn.Module, size: int) -> NetworkSummary:
    """Return the stages, layers and traits of a network in eval mode, for an image of `size` pixels a side.

    Stages are the modules whose features timm lists, with their siblings; equal blocks in a row are one stage.
    """
    parts = _group_stages(net)
    stage_of = _assign_stages(net, parts)
    inputs, shapes, macs = _trace_shapes(net, size)
    path, attends = _follow_image(net, size)
    layers = _tabulate_layers(net, stage_of, inputs, shapes, macs, Counter(path))
    order = dict.fromkeys(layers["stage"])
    rows = [
        _describe_stage(net, name, parts.get(name, ()), layers[layers["stage"] == name], shapes, size) for name in order
    ]
    traits = _describe_traits(net, parts, layers, attends)
    return NetworkSummary(pd.DataFrame(rows).astype({"stride": "Int64"}), layers, len(path), traits)


def find_first_convolution(net: nn.Module, size: int) -> str | None:
    """Return the layer that reads the image in eval mode; None unless it is a convolution of 3 channels."""
    ran: list[nn.Module] = []
    names = {module: name for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    with torch.inference_mode(), register_module_forward_pre_hook(lambda module, inputs: ran.append(module)):
        net(make_blank_image(net, size))
    first = next((module for module in ran if module in names), None)
    return names[first] if isinstance(first, nn.Conv2d) and first.in_channels == 3 else None


@torch.inference_mode()
def compute_feature_maps(
    classifier: Classifier, images: Tensor, convolution: str | None, most: int
) -> list[FeatureMaps]:
    """Compute the maps of the first convolution, if there is one, and of the first stages that timm lists.

    Selects in each the `most` channels that vary most over the uint8 images (N, 3, S, S), in descending order.
    """
    net: Any = classifier.net
    listed = [dict(stage) for stage in getattr(net, "feature_info", None) or []]
    stages = [stage for stage in listed if is_stage(net.get_submodule(stage["module"]))][:MAX_STAGES]
    names = [*([convolution] if convolution else []), *(stage["module"] for stage in stages)]
    wanted = {net.get_submodule(name): name for name in names}
    kept: dict[str, Tensor] = {}

    def keep_output(module: nn.Module, inputs: Any, output: Any) -> None:
        if module in wanted and isinstance(output, Tensor):
            kept[wanted[module]] = output.clone()  # the next module may work in place

    with register_module_forward_hook(keep_output):
        classifier(images.to(classifier.device))
    layers = [(convolution, kept[convolution])] if convolution else []
    for stage in stages:
        if (output := kept.get(stage["module"])) is not None:
            layer = find_layout(net, stage, tuple(output.shape), images.shape[-1])
            if layer is not None and layer.name != convolution:
                layers.append((layer.name, layer.to_map(output)))
    maps = []
    for name, output in layers:
        values = output.float().cpu()
        spread = values.transpose(0, 1).flatten(1).std(dim=1, correction=0)
        channels = torch.argsort(spread, descending=True, stable=True)[:most]
        maps.append(FeatureMaps(name, channels.numpy(), values[:, channels].numpy()))
    return maps


def _classify_family(net: nn.Module, attends: bool) -> str:
    """Return the family of a network by what mixes information across the image.

    A network with attention is a hybrid if the kernels of a convolution overlap, else a transformer, since the kernels
    that cut patches do not overlap; one without is convolutional if kernels overlap, else "other".
    """
    overlaps = any(
        any(side > step for side, step in zip(module.kernel_size, module.stride, strict=True))
        for module in _list_convolutions(net)
    )
    if attends:
        return "hybrid" if overlaps else "transformer"
    return "convolutional" if overlaps else "other"


def _follow_image(net: nn.Module, size: int) -> tuple[tuple[str, ...], bool]:
    """Return the layers on the longest path from an image to the logits, and whether the network has attention."""
    image, trace = make_blank_image(net, size), _LongestPathMode()
    trace.reached[image] = ()
    for name, tensor in [*net.named_buffers(), *net.named_parameters()]:
        trace.owner[tensor] = name.rpartition(".")[0]
    # this backend splits fused attention into matrix products
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), trace:
        logits = net(image)
    return trace.reached[logits], trace.attends


def _group_stages(net: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the modules of each stage by its number, counted from the image."""
    modules = dict(net.named_modules())
    listed = [item["module"] for item in net.feature_info]  # type: ignore[union-attr]
    listed = [name for name in listed if is_stage(modules[name])]
    parents = {name.rpartition(".")[0] for name in listed} - {""}
    names = [name for name in modules if name in listed or name.rpartition(".")[0] in parents]
    runs: list[list[str]] = []
    for name in filter(lambda name: is_stage(modules[name]), names):
        last = runs[-1][-1] if runs else None
        if last and _list_blocks(modules[name]) == [modules[name]] and type(modules[name]) is type(modules[last]):
            runs[-1].append(name)
        else:
            runs.append([name])
    return {str(number): tuple(run) for number, run in enumerate(runs, 1)}


def is_stage(module: nn.Module) -> bool:
    """Check whether a module that timm lists is a stage, rather than a plain layer or a norm of the stem."""
    return bool([*module.children()]) and bool([*module.parameters()]) and not _name_norm(module)


def _list_blocks(module: nn.Module) -> list[nn.Module]:
    """Return the blocks of a stage: its outermost numbered modules that are not plain layers, else the stage itself."""
    blocks: dict[str, nn.Module] = {}
    for name, inner in module.named_modules():
        outermost = not any(name.startswith(f"{known}.") for known in blocks)
        if re.search(r"\d$", name) and is_stage(inner) and outermost:
            blocks[name] = inner
    return [*blocks.values()] or [module]


def _assign_stages(net: nn.Module, parts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the stage of every module; modules between two stages count with the first."""
    owner = {name: stage for stage, names in parts.items() for name in names}
    last = next(reversed([*parts]), STEM)
    stages, current = {}, STEM
    for name, _ in net.named_modules():
        inside = next((stage for top, stage in owner.items() if name == top or name.startswith(f"{top}.")), None)
        if inside is None and current == last:
            current = HEAD
        stages[name] = current = inside or current
    return stages


def _trace_shapes(net: nn.Module, size: int) -> tuple[dict[str, Shape], dict[str, Shape], Counter[str]]:
    """Return the input and output shapes of every module, in the order they start, and the MACs of every module."""
    names = {module: name for name, module in net.named_modules()}
    inputs: dict[str, Shape] = {}
    shapes: dict[str, Shape] = {}

    def record_input(module: nn.Module, passed: Any) -> None:
        tensors = [leaf for leaf in tree_leaves(passed) if isinstance(leaf, Tensor)]
        if module in names:  # not one that the network makes while it runs
            inputs.setdefault(names[module], tuple(tensors[0].shape[1:]) if tensors else ())

    def record_output(module: nn.Module, passed: Any, output: Any) -> None:
        if module in names:
            tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
            shapes[names[module]] = tuple(tensors[-1].shape[1:])

    hooks = register_module_forward_pre_hook(record_input), register_module_forward_hook(record_output)
    with count_flops(net) as counter, hooks[0], hooks[1]:
        net(make_blank_image(net, size))
    root = type(net).__name__
    flops = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items() if name != "Global"}
    return inputs, shapes, Counter({name.removeprefix(root).removeprefix("."): n // 2 for name, n in flops.items()})


def _tabulate_layers(
    net: nn.Module,
    stage_of: Mapping[str, str],
    inputs: Mapping[str, Shape],
    shapes: Mapping[str, Shape],
    macs: Counter[str],
    path: Counter[str],
) -> pd.DataFrame:
    """Return a table of the modules without children, and of those with weights or products of their own."""
    rows = []
    modules, stored = dict(net.named_modules()), count_layer_bytes(net)
    for name in dict.fromkeys([*inputs, *modules]):
        module = modules[name]
        inner = [f"{name}.{child}".lstrip(".") for child, _ in module.named_children()]
        own_macs = macs[name] - sum(macs[child] for child in inner)
        params = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        runs = name in shapes and not inner and not isinstance(module, nn.Identity)
        if not (params or stored[name] or own_macs or runs):
            continue
        rows.append(
            {
                "stage": stage_of[name],
                "module": name,
                "type": type(module).__name__,
                "params": params,
                "bytes": stored[name],
                "macs": own_macs,
                "on_longest_path": path[name],
                "input": _format_sides(inputs.get(name)),
                "output": _format_sides(shapes.get(name)),
                "kernel": _format_sides(getattr(module, "kernel_size", None)),
                "stride": _format_sides(getattr(module, "stride", None)),
            }
        )
    return pd.DataFrame(rows)


def _describe_stage(
    net: nn.Module, stage: str, names: Sequence[str], part: pd.DataFrame, shapes: Mapping[str, Shape], size: int
) -> dict[str, Any]:
    inner = [net.get_submodule(name) for name in part["module"]]
    units = [unit for name in names for unit in _list_blocks(net.get_submodule(name))]
    ran = [name for name in (names or part["module"]) if name in shapes and name]
    output = shapes[ran[-1]] if ran else None
    span = names or list(dict.fromkeys(name.split(".")[0] for name in part["module"] if name))
    return {
        "stage": stage,
        "module": " to ".join(span if len(span) < 2 else (span[0], span[-1])),  # "blocks.0 to blocks.11"
        "blocks": len(units),
        "block_type": _join_types(units or [module for module in inner if isinstance(module, _CONV_OR_LINEAR)]),
        "params": int(part["params"].sum()),
        "macs": int(part["macs"].sum()),
        "output": _format_sides(output),
        "stride": _find_stride(net, names, output, size),
        "normalisation": _join_types(module for module in inner if _name_norm(module)),
        "activation": _join_types(module for module in inner if _is_activation(module)),
    }


def _describe_traits(
    net: nn.Module, parts: Mapping[str, Sequence[str]], layers: pd.DataFrame, attends: bool
) -> dict[str, Any]:
    modules = [*net.modules()]
    units = [unit for names in parts.values() for name in names for unit in _list_blocks(net.get_submodule(name))]
    commonest = Counter(type(unit).__name__ for unit in units).most_common(2)
    depthwise = (layer for layer in _list_convolutions(net) if 1 < layer.groups == layer.in_channels)
    kernels = sorted({layer.kernel_size for layer in depthwise})
    windows = [
        _format_sides(module.window_size) for module in modules if isinstance(getattr(module, "window_size", 0), tuple)
    ]
    first = layers[layers["kernel"] != ""].iloc[:1]
    cuts = first[(first["kernel"] == first["stride"]) & (first["kernel"] != "1 x 1")]
    return {
        "family": _classify_family(net, attends),
        # a block that occurs once is a stem or a transition
        "core_block": ", ".join(name for name, n in commonest if n > 1 or name == commonest[0][0]),
        "squeeze_excitation": sum(type(module).__name__ in _SQUEEZE_TYPES for module in modules),
        "depthwise": ", ".join(map(_format_sides, kernels)),
        "attention": "" if not attends else f"windows of {windows[0]}" if windows else "self-attention",
        "patch": "".join(cuts["kernel"]),
        "normalisation": _join_by_count(kind for module in modules if (kind := _name_norm(module))),
        "activation": _join_by_count(type(module).__name__ for module in modules if _is_activation(module)),
    }


def _list_convolutions(net: nn.Module) -> list[nn.modules.conv._ConvNd]:
    return [module for module in net.modules() if isinstance(module, nn.modules.conv._ConvNd)]


def _join_by_count(names: Iterable[str]) -> str:
    return ", ".join(name for name, _ in Counter(names).most_common())


class _LongestPathMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A recorder of the layers with weights on the longest path from the image to each tensor, the first among equals.

    Convolutions and linear layers count, also those of squeeze-and-excitation; those of a parallel branch, such as a
    shortcut, do not: ResNet-18 has 18.
    `owner` is the module of each weight and of each tensor computed from weights alone; `attends` is True once two
    tensors that both depend on the image have been multiplied as matrices.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reached: Any = WeakIdKeyDictionary()  # type: ignore[no-untyped-call]
        self.owner: Any = WeakIdKeyDictionary()  # type: ignore[no-untyped-call]
        self.attends = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        fed = [self.reached[leaf] for leaf in inputs if leaf in self.reached]
        weights = [leaf for leaf in inputs if leaf in self.owner and leaf not in self.reached]
        self.attends |= len(fed) > 1 and func._overloadpacket in _MATRIX_PRODUCTS
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and fed:
                matrices = [self.owner[weight] for weight in weights if weight.ndim > 1]
                weighs = matrices[:1] if func._overloadpacket in flop_registry else ()
                self.reached[leaf] = (*max(fed, key=len), *weighs)
            elif isinstance(leaf, Tensor) and weights:  # computed from weights alone
                self.owner[leaf] = self.owner[weights[0]]
        return made


def _name_norm(module: nn.Module) -> str:
    return next((kind for kind, norm in _NORMS.items() if isinstance(module, norm)), "")


def _is_activation(module: nn.Module) -> bool:
    # torch has its activations in one module, timm in a few with similar names
    return "activation" in type(module).__module__ and not isinstance(module, nn.Softmax | nn.MultiheadAttention)


def _join_types(modules: Iterable[nn.Module]) -> str:
    return ", ".join(dict.fromkeys(type(module).__name__ for module in modules))


def _format_sides(sides: Any) -> str:
    if sides is None:
        return ""
    return " x ".join(map(str, sides)) if isinstance(sides, tuple) else f"{sides} x {sides}"


def _find_stride(net: nn.Module, names: Sequence[str], output: Shape | None, size: int) -> int | None:
    listed: Any = net.feature_info
    said = [item["reduction"] for item in listed if item["module"] in names and "reduction" in item]
    if said:
        return int(said[-1])
    if output is None or len(output) != 3 or output[1] != output[2]:
        return None
    return round(size / output[2])
