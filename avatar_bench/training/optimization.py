"""Optimisation of a network: its optimizer, the rate and decay of each parameter, a schedule, and the passes of SAM."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from timm.optim import (  # type: ignore[attr-defined]  # it does not declare its exports
    get_optimizer_class,
    list_optimizers,
    param_groups_layer_decay,
)
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from avatar_bench.config.instantiate import build, check_arguments, check_node
from avatar_bench.errors import ConfigError, suggest_names
from avatar_bench.models.stages import list_tracking_norms

if TYPE_CHECKING:
    from avatar_bench.commands.train import OptimizerConfig

_FUSED = ("adam", "adamw", "sgd", "momentum", "nesterov")  # timm's names of optimizers that torch has fused


@dataclass(frozen=True)
class TrainingOptions:
    """Training options: optimizer, by name or as a node with `_target_`, schedule and regularisation."""

    seed: int
    optimizer: str | Mapping[str, Any] = "adamw"
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of an optimizer by name
    schedule: Mapping[str, Any] = field(default_factory=dict)  # empty: a constant rate
    rho: float | None = None  # of sharpness-aware minimisation
    adaptive: bool = False
    weight_decay: float = 0.01
    layer_decay: float | None = None
    decay_norms: bool = True
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    class_weights: Sequence[float] | None = None

    @classmethod
    def read(cls, settings: Any, **regularisation: Any) -> TrainingOptions:
        """Read the seed and the options of conf/optimizer and conf/schedule from the settings of a job."""
        optimizer = settings.optimizer
        names = ("weight_decay", "layer_decay", "decay_norms", "rho", "adaptive")
        chosen = {name: getattr(optimizer, name) for name in names}
        if optimizer._target_ is not None:
            chosen["optimizer"] = {"_target_": optimizer._target_, **optimizer.options}
        else:
            chosen |= {"optimizer": optimizer.name, "arguments": optimizer.options}
        return cls(settings.seed, schedule=settings.schedule, **chosen, **regularisation)


def check_optimizer(options: OptimizerConfig) -> None:
    """Raise ConfigError unless there is such an optimizer, with arguments of these names."""
    known: Any = list_optimizers()
    if options._target_ is not None:
        check_node("optimizer", {"_target_": options._target_, **options.options})
    elif options.name not in known:
        raise ConfigError(
            f"optimizer.name={options.name}: there is no such optimizer{suggest_names(str(options.name), known)}",
            "There are those of timm.optim.list_optimizers(); for another: optimizer._target_=CLASS",
        )
    else:
        check_arguments("optimizer", get_optimizer_class(str(options.name), bind_defaults=False), list(options.options))


def build_optimizer(groups: Sequence[Mapping[str, Any]], options: TrainingOptions, lr: float, fused: bool) -> Optimizer:
    """Build the optimizer of groups, which may state `lr` or `weight_decay`; `fused` allows torch's fused one."""
    parameter_groups = [{"lr": lr, "weight_decay": options.weight_decay, **group} for group in groups]
    node = options.optimizer
    if isinstance(node, str):
        may_be_fused = {"fused": fused} if node in _FUSED else {}
        node = {"_target_": "timm.optim.create_optimizer_v2", "opt": node, **may_be_fused, **options.arguments}
    built: Optimizer = build("optimizer", {"lr": lr, **node}, Optimizer, parameter_groups)
    return built


class WarmupCosine(LambdaLR):
    """Cosine schedule over all steps of a stage, stepped after each of them; `warmup_epochs` may be fractional."""

    def __init__(self, optimizer: Optimizer, steps: int, epochs: int, warmup_epochs: float = 0) -> None:
        warmup = int(steps * warmup_epochs / max(1, epochs))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

        super().__init__(optimizer, factor)


def build_parameter_groups(net: nn.Module, options: TrainingOptions, lr: float) -> list[dict[str, Any]]:
    """Group the trainable parameters of a timm network by learning rate and weight decay.

    With `layer_decay`, the rate of a layer is lr * layer_decay ** (its distance from the head), counted in timm's fine
    layer groups (Bao et al., BEiT, ICLR 2022, https://arxiv.org/abs/2106.08254). Without `decay_norms`, there is no
    weight decay on one-dimensional parameters (norms, biases) or on those in the network's `no_weight_decay`, such as
    position embeddings and tokens.
    """
    if options.layer_decay is None and options.decay_norms:
        return [{"params": [parameter for parameter in net.parameters() if parameter.requires_grad]}]
    named: set[str] = getattr(net, "no_weight_decay", set)()
    groups = param_groups_layer_decay(
        net,
        options.weight_decay,
        no_weight_decay_list=() if options.decay_norms else named,
        weight_decay_exclude_1d=not options.decay_norms,
        layer_decay=options.layer_decay or 1.0,
    )
    return [
        {"params": group["params"], "lr": lr * group["lr_scale"], "weight_decay": group["weight_decay"]}
        for group in groups
    ]


def build_head_groups(parameters: Sequence[nn.Parameter], options: TrainingOptions) -> list[dict[str, Any]]:
    """Group the parameters of a head by weight decay; all use the full learning rate."""
    decayed = [parameter for parameter in parameters if options.decay_norms or parameter.ndim > 1]
    not_decayed = [parameter for parameter in parameters if not options.decay_norms and parameter.ndim <= 1]
    groups = {"params": decayed}, {"params": not_decayed, "weight_decay": 0.0}
    return [group for group in groups if group["params"]]


@contextmanager
def perturb_weights(optimizer: torch.optim.Optimizer, rho: float, adaptive: bool) -> Iterator[None]:
    """Move the weights inside the `with` to the nearby point of highest loss, and restore them exactly afterwards.

    To first order, that point lies `rho` along the gradient, which is then cleared: sharpness-aware minimisation (SAM),
    Foret et al. 2021. `adaptive` scales the distance by each weight's size (Kwon et al. 2021).
    """
    from pytorch_optimizer import SAM  # takes most of a second to import

    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    sam = SAM(weights, _NoStep, rho=rho, adaptive=adaptive)  # type: ignore[arg-type]
    sam.first_step(zero_grad=True)
    try:
        yield
    finally:
        sam.second_step()


class _NoStep(torch.optim.Optimizer):
    """Optimizer whose step does nothing: Lightning's own optimizer updates the weights once they are restored."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Leave the weights unchanged."""


@contextmanager
def freeze_statistics(net: nn.Module) -> Iterator[None]:
    """Use batch statistics inside the `with`, without updating running statistics or their batch counts."""
    tracking = list_tracking_norms(net)
    for module in tracking:
        module.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True  # type: ignore[assignment]
