"""Checks of a configuration: of each option as the schema states it, and of what types cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, Container, DictConfig, ListConfig, OmegaConf, open_dict

from avatar_bench.config.catalogue import WEIGHTS_CHOICES, find_choices, find_conf_folder
from avatar_bench.config.composition import find_default_choices
from avatar_bench.config.entries import find_entries, find_entry
from avatar_bench.config.instantiate import build, check_node
from avatar_bench.config.options import Option, find_option, get_default, iterate_options
from avatar_bench.config.schema import (
    CORE,
    OPEN_GROUPS,
    SWITCH,
    CalibrateConfig,
    ExportConfig,
    PredictConfig,
    TrainConfig,
    find_schema,
    format_alternatives,
)
from avatar_bench.config.validation import TARGET, list_nodes
from avatar_bench.console.terminal import format_count
from avatar_bench.errors import ConfigError, suggest_names
from avatar_bench.files.checkpoint_container import refuse_address
from avatar_bench.files.paths import make_folder_name
from avatar_bench.models.card_schema import NETWORK_OPTIONS, find_option_fault
from avatar_bench.reporting.prediction_outputs import find_writer
from avatar_bench.results.view import View
from avatar_bench.runs.engines import make_engine
from avatar_bench.runs.record import PROBE, RESERVED_SET_NAMES, read_config

_UNUSED_BY_PROBE = {  # reasons, and the options to which they apply
    "which solves a logistic regression to convergence, without epochs": (
        *("epochs", "lr", "stage", "mode.stages", "callbacks.others"),
    ),
    "which has a solver of its own": ("optimizer", "schedule", "trainer.gradient_clip", "trainer.accumulate"),
    "whose targets are single classes": ("label_smoothing", "teacher", "data.augment.mixup", "data.augment.cutmix"),
    "which computes its features on one device": ("trainer.devices", "trainer.strategy", "trainer.compile"),
}

_FORMER_OPTIONS = {  # until 0.4
    "optimizer.base": "optimizer.name",
    "optimizer.schedule": "schedule=NAME, whose options are schedule.OPTION",
    "callbacks.ema": "callbacks=ema callbacks.ema.decay=VALUE",
    "callbacks.swa": "callbacks=swa callbacks.swa.start=VALUE",
    "callbacks.early_stopping": "callbacks=early_stopping callbacks.early_stopping.patience=VALUE",
    **{f"logger.{name}": f"logger=wandb logger.wandb.{name}=VALUE" for name in ("name", "project", "offline")},
}
_FIXED_BY_DECISIONS = (  # options of predict, the values that decisions allow, and why
    ("calibrated", (True,), "decides by calibrated probabilities"),
    ("runtime", ("auto", "torch"), "needs embeddings, which exported networks do not compute"),
    ("precision", ("auto", "32"), "decides by probabilities as those of the calibration"),
)


def check_config(command: str, cfg: DictConfig) -> None:
    """Raise ConfigError if an option is missing, with an example, is unknown, or has an invalid value."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        found = [find_option(find_schema(command), name) for name in missing]
        examples = [each[1].example if each else "VALUE" for each in found]
        values = " ".join(f"{name}={example}" for name, example in zip(missing, examples, strict=True))
        raise ConfigError(
            f"{command} needs a value for {', '.join(missing)}",
            f"for example: avatar-bench {command} {values}",
        )
    _gather_others(cfg)
    OmegaConf.to_container(cfg, resolve=True)  # fail early on interpolations that cannot be resolved
    check_options(cfg)
    if (view := OmegaConf.select(cfg, "view")) is not None and view.name is not None:
        View.parse(view.name, OmegaConf.to_container(view.classes))  # type: ignore[arg-type]
    for name in ("ckpt", "init_from", "resume", "model.weights"):
        refuse_address(str(OmegaConf.select(cfg, name)), name)
    if own := _RULES.get(command) if command in CORE else getattr(find_entry("command", command).load(), "check", None):
        own(cfg)


def check_train(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of train is invalid."""
    check_training("train", cfg)
    for name in cfg.data.augment.others:
        find_entry("augmentation", str(name), f"data.augment.others={{{name}: ...}}")
    stages = cfg.mode.stages
    if cfg.mode.name == PROBE:
        _check_probe(cfg)
    elif not stages:
        raise ConfigError("mode.stages is empty: expected at least one stage")
    elif cfg.stage is not None and cfg.stage > len(stages):
        raise ConfigError(f"stage={cfg.stage}: mode '{cfg.mode.name}' has {format_count(len(stages), 'stage')}")
    else:
        check_warmup(cfg.schedule, [cfg.epochs or stage.epochs for stage in stages[: cfg.stage]])
    if cfg.init_from is not None and cfg.resume is not None:
        raise ConfigError(
            "init_from and resume exclude each other",
            "resume=RUN continues an interrupted run; init_from=RUN starts a new one from its weights",
        )
    if cfg.init_from is not None:
        read_config(Path(cfg.init_from))  # refuses a run that names code, before images are read
    ema, swa = cfg.callbacks.others.get("ema"), cfg.callbacks.others.get("swa")
    if ema and swa:
        raise ConfigError("callbacks.ema and callbacks.swa exclude each other: both average weights; set one to null")
    longest = max((cfg.epochs or stage.epochs for stage in stages[: cfg.stage]), default=0)
    if swa and (start := swa.get("start", 0)) >= longest:
        raise ConfigError(
            f"callbacks.swa.start={start}: the longest stage has {longest} epochs, so none would be averaged",
            "expected a smaller number, or more epochs",
        )


def check_evaluate(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of evaluate is invalid."""
    _check_data(cfg)
    if isinstance(cfg.data.batch_size, DictConfig):
        raise ConfigError(f"data.batch_size={cfg.data.batch_size}: evaluate expects a whole number of at least 1")
    if cfg.split == "train":
        raise ConfigError(
            "split=train: metrics on training images do not estimate performance on new ones",
            "expected test, val, calibration, blind, or the name of one of the run's data.ood",
        )
    if cfg.data.kind != "run" and cfg.split != "test":
        raise ConfigError(
            f"split={cfg.split} requires data=run, the run's own data; data={cfg.data.kind} is evaluated as one set"
        )
    reserved = [name for name in RESERVED_SET_NAMES if name != "blind"]  # which may be given as data
    if str(cfg.data.name).casefold() in reserved:
        raise ConfigError(
            f"data.name={cfg.data.name}: the name is reserved for a set of the run",
            f"names of the run's own sets: {', '.join(reserved)}",
        )
    if not cfg.block:
        raise ConfigError("block: no block is selected", "for example: avatar-bench evaluate block=blind_test")


def check_predict(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of predict is invalid."""
    check_predictions(cfg)
    is_page = find_writer(cfg.output).is_page
    if is_page and cfg["update"]:
        raise ConfigError("update=true: a page is written as a whole", "remove update=true, or write a table: FILE.csv")
    if cfg.neighbours and (not is_page or cfg.runtime not in ("auto", "torch") or cfg.precision not in ("auto", "32")):
        raise ConfigError(
            "neighbours=true: for output=FILE.html, with embeddings as torch computes them in 32 bits",
            "remove neighbours=true, or runtime and precision",
        )
    settings: Any = OmegaConf.to_object(cfg)
    make_engine(settings.engine).check(settings)


def check_prepare(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of prepare is invalid."""
    _check_held_out("split", cfg.split)
    if set(cfg.block) != {"data_audit"}:
        raise ConfigError(f"block={','.join(cfg.block) or 'null'}: prepare always runs data_audit and no other block")
    kind = cfg.data.get("kind")
    if not cfg.source and kind != "demo":
        raise ConfigError(
            f"data={kind}: prepare builds from sources",
            "for example: avatar-bench prepare source=folder source.folder.root=DIR out=NEW_DIR",
        )
    if cfg.source and cfg.out is None:
        raise ConfigError("out: expected a folder", "for example: avatar-bench prepare source=tabler out=DIR")


def check_vary(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of vary is invalid."""
    if set(cfg.block) != {"robustness"}:
        raise ConfigError(f"block={','.join(cfg.block) or 'null'}: vary writes the images of robustness")
    if cfg.ckpt is not None and (cfg.size is not None or cfg.resize != "squash"):
        raise ConfigError("ckpt excludes size and resize: the run states its own")
    if cfg.ckpt is None and cfg.size is None and cfg.at == "input":
        raise ConfigError(
            "at=input: corruptions are applied to images of the network's size, which is not known",
            "expected ckpt=RUN, size=PIXELS, or at=native",
        )
    if cfg.data.kind == "run" and cfg.ckpt is None:
        raise ConfigError(
            "data=run requires ckpt=RUN", "or choose other data: data=folder data.root=DIR, data=manifest ..."
        )


def check_calibrate(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of calibrate is invalid."""
    _check_decisions(cfg)
    if cfg.split == "train":
        raise ConfigError("split=train: a network is more certain of the images that it was trained on than of others")
    if cfg.data.kind != "run" and cfg.split != CalibrateConfig().split:
        raise ConfigError(
            f"split={cfg.split} requires data=run, the run's own data; data={cfg.data.kind} is used as one set"
        )


def check_predictions(cfg: DictConfig) -> None:
    """Raise ConfigError if an option that predict and app have is invalid."""
    supported = {"torch": ["32", "bf16", "16"]}
    supported |= {name: entry.about.get("precisions", ["32"]) for name, entry in find_entries("runtime").items()}
    known = supported.get(cfg.runtime) or sorted({kind for kinds in supported.values() for kind in kinds})
    if cfg.precision not in ("auto", *known):
        raise ConfigError(f"precision={cfg.precision}: runtime={cfg.runtime} supports {format_alternatives(known)}")
    if cfg.accelerator == "gpu" and (cfg.runtime not in ("auto", "torch") or cfg.precision == "int8"):
        raise ConfigError(f"accelerator=gpu: runtime={cfg.runtime} runs on the CPU; use runtime=torch for a GPU")
    for name in find_entries("prediction_column"):
        for each, _ in iterate_options(OmegaConf.get_type(cfg[name])):  # type: ignore[arg-type]
            if not cfg[name].enabled and cfg[name][each.name] != get_default(each) and each.name != SWITCH:
                raise ConfigError(f"{name}.{each.name} requires {name}=true")
    if decides := _check_decisions(cfg):
        for name, usual, why in _FIXED_BY_DECISIONS:
            if cfg[name] not in usual:
                raise ConfigError(f"{name}={cfg[name]}: {decides[0]} {why}", f"remove {name}, or set {usual[-1]}")
    elif cfg.alpha != PredictConfig().alpha:
        raise ConfigError(f"alpha={cfg.alpha}: requires target_error or costs")


def check_export(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of export is invalid."""
    if Path(cfg.out or "").suffix.lower() != ".html":
        for each in fields(ExportConfig):
            if each.name not in ("ckpt", "out") and (value := cfg[each.name]) != get_default(each):
                raise ConfigError(f"{each.name}={value}: for a page, out=FILE.html, and no other file")
    _check_decisions(cfg)


def _check_decisions(cfg: DictConfig) -> list[str]:
    """Return the option by which decisions are made, if any; raise ConfigError for two of them."""
    decides = [name for name in ("target_error", "costs") if OmegaConf.select(cfg, name) is not None]
    if len(decides) > 1:
        raise ConfigError("target_error and costs exclude each other", "expected one of them")
    if cfg.per_class and cfg.target_error is None:
        raise ConfigError("per_class=true requires target_error", "for example: target_error=.05 per_class=true")
    return decides


def check_options(cfg: DictConfig, place: str = "") -> None:
    """Raise ConfigError for an option that is not in the schema, as Hydra accepts any by +, or an invalid value.

    `place` is the option that holds `cfg`; empty for the configuration of a command.
    """
    schema: Any = OmegaConf.get_type(cfg)
    known = [each.name for each in fields(schema)]
    for name in map(str, cfg):
        option = f"{place}.{name}".lstrip(".")
        if name not in known:
            raise ConfigError(f"{option}: no such option{suggest_names(name, known, '')}")
        inner: Any = cfg._get_node(name)
        several = isinstance(inner, ListConfig) and not inner._is_none()
        for index, node in enumerate(inner if several else [inner]):
            if is_dataclass(OmegaConf.get_type(node)):
                check_options(node, f"{option}[{index}]" if several else option)
    for each, stated in iterate_options(schema):
        _check_value(f"{place}.{each.name}".lstrip("."), OmegaConf.select(cfg, each.name), stated)
        if stated.only_for:
            _check_user(place, cfg, each, stated)


def _check_value(option: str, value: Any, stated: Option) -> None:
    value = OmegaConf.to_container(value, resolve=True) if isinstance(value, Container) else value
    if value == "" and stated.is_path:
        raise ConfigError(f"{option}= is empty: expected a path, or {option}=null for none")
    if value is not None and stated.entries:
        find_entry(stated.entries, value, f"{option}={value}")
    if value is not None and (expected := stated.find_fault(value)) is not None:
        raise ConfigError(f"{option}={value}: expected {expected}")


def _check_user(place: str, cfg: DictConfig, each: Field[Any], stated: Option) -> None:
    """Raise ConfigError if an option that some choices of its group use is set for another, or lacks a value."""
    chooser = next(one for one in fields(OmegaConf.get_type(cfg)) if one.name in ("kind", "name"))  # type: ignore[arg-type]
    group = place if get_default(chooser) is MISSING else f"{place}.{chooser.name}"
    option, value, user = f"{place}.{each.name}", cfg[each.name], cfg[chooser.name]
    if user in stated.only_for and value is None:
        raise ConfigError(f"{group}={user} requires {option}={'PATH' if stated.is_path else 'VALUE'}")
    if user not in stated.only_for and value != get_default(each):
        users = format_alternatives(stated.only_for)
        raise ConfigError(
            f"{option}={value} requires {group}={users}, but {place}.{chooser.name} is {user}",
            f"Use both: {group}={stated.only_for[0]} {option}={value}",
        )


def _check_data(cfg: DictConfig) -> None:
    data = cfg.data
    for name in data.ood:
        if name in RESERVED_SET_NAMES or make_folder_name(name) != name:
            raise ConfigError(
                f"data.ood.{name}: expected a name of letters and digits that is not used by another set",
                f"names of the run's own sets: {', '.join(RESERVED_SET_NAMES)}",
            )


def _check_held_out(option: str, split: DictConfig) -> None:
    if split.held_out and split.by not in ("source", "generator"):
        raise ConfigError(
            f"{option}.held_out={split.held_out}: requires {option}.by=source or generator",
            f"for example: {option}.by=source '{option}.held_out=[tabler]'",
        )


def check_training(command: str, cfg: DictConfig) -> None:
    """Raise ConfigError if an option that train and pretrain share is invalid."""
    _check_data(cfg)
    data, trainer = cfg.data, cfg.trainer
    _check_held_out("data.split", data.split)
    if data.kind == "run":
        raise ConfigError(f"data=run is for evaluate; {command} accepts data=demo, folder, manifest or shards")
    if data.fold >= data.split.folds:
        raise ConfigError(f"data.fold={data.fold}: expected less than data.split.folds={data.split.folds}")
    _check_model(cfg.model)
    if trainer.accelerator not in ("auto", "cpu") or trainer.devices != 1:  # imported only here, since it loads torch
        from avatar_bench.training.environment import refuse_missing_devices

        refuse_missing_devices(trainer.accelerator, trainer.devices)
    if cfg.optimizer.adaptive and cfg.optimizer.rho is None:
        raise ConfigError("optimizer.adaptive=true requires optimizer.rho=VALUE", "For example: optimizer=sam")
    if cfg.optimizer._target_ or cfg.optimizer.options or cfg.optimizer.name not in find_choices("optimizer"):
        from avatar_bench.training.optimization import check_optimizer  # imports torch

        check_optimizer(OmegaConf.to_object(cfg.optimizer))  # type: ignore[arg-type]
    nodes = {"schedule": cfg.schedule} if cfg.schedule else {}
    groups = {"callbacks": cfg.callbacks.others, "logger": cfg.logger, "trainer.plugins": trainer.plugins}
    nodes |= {f"{group}.{name}": node for group, named in groups.items() for name, node in named.items()}
    shipped = [None, *list_nodes((find_conf_folder(),))]  # callbacks.NAME=null: none
    for place, given in nodes.items():
        node: Any = OmegaConf.to_container(given, resolve=True) if isinstance(given, DictConfig) else given
        if node not in shipped:  # their classes are imported later, with torch
            check_node(place, node)
            if place.startswith("callbacks."):  # which also checks the values
                build(place, node, object)


def _gather_others(cfg: DictConfig) -> None:
    """Move what is set beside the options of an open group to the one that takes it: `a.NAME` to `a.others`."""
    for former, now in _FORMER_OPTIONS.items():
        value = OmegaConf.select(cfg, former)
        if value is not None and not (isinstance(value, DictConfig) and TARGET in value):
            raise ConfigError(f"{former}={value}: no such option", f"it is now {now}")
    for name in OPEN_GROUPS.keys() & cfg.keys():
        group, rest = cfg[name], OPEN_GROUPS[str(name)]
        known = {each.name for each in fields(OmegaConf.get_type(group))}  # type: ignore[arg-type]
        for other in [other for other in group if other not in known]:
            if rest == "others" and not isinstance(group[other], DictConfig | None):
                raise ConfigError(f"{name}.{other}: no such option{suggest_names(str(other), known, '')}")
            with open_dict(group[rest]):
                group[rest][other] = group.pop(other)


def _check_model(model: DictConfig) -> None:
    if model.weights not in WEIGHTS_CHOICES and not Path(model.weights).is_file():
        raise ConfigError(
            f"model.weights={model.weights}: no such file{suggest_names(model.weights, WEIGHTS_CHOICES, '')}",
            f"expected {format_alternatives(WEIGHTS_CHOICES)}, or a .safetensors or .pth file",
        )
    known = () if model.backbone in find_choices("backbone") else NETWORK_OPTIONS
    if fault := find_option_fault(OmegaConf.to_container(model.options), known):  # type: ignore[arg-type]
        raise ConfigError(f"model.options: {fault}", f"known: {' '.join(sorted(NETWORK_OPTIONS))}")


def _check_probe(cfg: DictConfig) -> None:
    """Raise ConfigError, with the reason, for an option of training by epochs that a probe would ignore."""
    neutral = OmegaConf.structured(TrainConfig)
    neutral.optimizer.name, neutral.mode.stages = find_default_choices("train")["optimizer"], []
    for reason, options in _UNUSED_BY_PROBE.items():
        for option in options:
            if (value := OmegaConf.select(cfg, option)) != OmegaConf.select(neutral, option):
                given = f"optimizer={value.name}" if option == "optimizer" else f"{option}={value}"
                otherwise = "remove the option, or train by epochs: mode=frozen, progressive or full"
                raise ConfigError(f"{given}: not used by mode=probe, {reason}", otherwise)
    if cfg.mode.balance == "sampler":
        raise ConfigError(
            "mode.balance=sampler draws training batches, and mode=probe has none",
            "expected loss, which weights images so that classes weigh alike, source, or none",
        )


def check_warmup(schedule: DictConfig, epochs: Sequence[int]) -> None:
    """Raise ConfigError if the schedule would never lower the learning rate after its warm-up."""
    warmup = schedule.get("warmup_epochs", 0)
    if not isinstance(warmup, int | float) or warmup < 0:
        raise ConfigError(f"schedule.warmup_epochs={warmup}: expected 0 or more")
    if warmup and warmup >= min(epochs):
        trained = format_count(min(epochs), "epoch")
        raise ConfigError(f"schedule.warmup_epochs={warmup}: expected fewer than the {trained} of training")


_RULES: dict[str, Callable[[DictConfig], None]] = {
    "train": check_train,
    "evaluate": check_evaluate,
    "predict": check_predict,
    "prepare": check_prepare,
    "vary": check_vary,
    "calibrate": check_calibrate,
    "export": check_export,
}
