"""Environment of a training: device, precision, threads, batch size and versions of the libraries."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from torch import nn

import avatar_bench
from avatar_bench.console.terminal import print_note
from avatar_bench.console.warning_filters import suppress_framework_warnings
from avatar_bench.errors import ConfigError
from avatar_bench.inference.autotune import set_threads, tune_inference, tune_training

if TYPE_CHECKING:
    from avatar_bench.commands.train import TrainerConfig
    from avatar_bench.runs.record import RunRecord


def seed_training(settings: Any) -> None:
    """Seed all random numbers and set the number of threads."""
    pl.seed_everything(settings.seed, verbose=False)
    set_threads(settings.trainer.threads)


def describe_environment(settings: Any, record: RunRecord) -> None:
    """Record accelerator, devices if several, precision, threads, workers, versions; print all but the versions."""
    record.device = {
        "accelerator": resolve_device(settings.trainer.accelerator),
        **({} if is_single_process(settings.trainer) else {"devices": settings.trainer.devices}),
        "precision": resolve_precision(settings.trainer),
        "threads": torch.get_num_threads(),
        "workers": settings.data.workers,
    }
    record.versions = read_versions()
    print_note("  " + ", ".join(f"{what} {value}" for what, value in record.device.items()))


def choose_precision(settings: Any, net: nn.Module, size: int, record: RunRecord) -> None:
    """Replace trainer.precision=auto by the fastest precision here, or by the recorded one of a resumed run."""
    trainer = settings.trainer
    if trainer.precision != "auto":
        return
    if record.device:
        trainer.precision, trainer.threads = record.device["precision"], record.device["threads"]
    else:
        device = resolve_torch_device(trainer.accelerator)
        precision = tune_training(net, settings.model.backbone, size, device)
        trainer.precision = "32-true" if precision == "32" else f"{precision}-mixed"
        trainer.threads = trainer.threads or tune_inference(device).threads
    set_threads(trainer.threads)


def resolve_batch_size(settings: Any) -> int:
    """Return the batch size for the device that the run uses."""
    size = settings.data.batch_size
    return int(size[resolve_torch_device(settings.trainer.accelerator)] if isinstance(size, dict) else size)


def is_single_process(options: TrainerConfig) -> bool:
    """Return whether training runs in this process alone."""
    return options.devices == 1 and options.strategy == "auto"


def refuse_missing_devices(accelerator: str, devices: Any) -> None:
    """Raise ConfigError if the trainer options ask for devices that this machine lacks."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not (available | {"gpu": any(available.values())}).get(accelerator, True):
        reason = f"trainer.accelerator={accelerator}: torch finds no GPU here."
        raise ConfigError(reason, "Remove the option (and trainer=gpu, which sets it), or use trainer=cpu.")
    suppress_framework_warnings()
    try:
        pl.Trainer(accelerator=accelerator, devices=devices, strategy="auto", logger=False)
    except (MisconfigurationException, ValueError) as error:
        reason = f"trainer.accelerator={accelerator}, trainer.devices={devices}: not possible on this machine."
        raise ConfigError(reason, " ".join(str(error).split())) from error


def resolve_device(accelerator: str) -> str:
    """Return the device type that trainer.accelerator selects on this machine: cpu, cuda or mps."""
    if accelerator == "cpu":
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_torch_device(accelerator: str) -> str:
    """Return the device of computations beside Lightning's, cuda or cpu, and of options that differ by device."""
    return "cuda" if resolve_device(accelerator) == "cuda" else "cpu"


def resolve_precision(options: TrainerConfig) -> str:
    """Return Lightning's name of the precision; raise ConfigError for 16-mixed without a GPU (it would use bf16)."""
    cuda = resolve_device(options.accelerator) == "cuda"
    if options.precision == "amp":
        return "16-mixed" if cuda else "32-true"
    if options.precision == "16-mixed" and not cuda and options.accelerator in ("auto", "cpu"):
        reason = "trainer.precision=16-mixed needs a GPU, and this run has none."
        raise ConfigError(reason, "Expected 32, auto or bf16-mixed; amp uses 16 bits if there is a GPU.")
    return "32-true" if options.precision == "32" else options.precision


def read_versions() -> dict[str, str]:
    """Return the versions of this package, Python and the training libraries."""
    return {
        "avatar_bench": avatar_bench.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "pytorch_lightning": metadata.version("pytorch-lightning"),
        "timm": metadata.version("timm"),
    }
