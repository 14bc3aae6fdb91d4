"""Plain loops of timm and torch that follow timm's own inference.py and train.py, as a baseline of the benchmark.

Without --best they use the defaults of those scripts; --best uses the flags that are fastest on a processor.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, CheckpointSaver, accuracy, random_seed, update_summary
from torch import nn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("data", type=Path, help="a folder of images; to train, one with train/ and validation/")
    parser.add_argument("out", type=Path, help="a CSV of probabilities; of a training, a folder")
    parser.add_argument("--model", required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda")
    parser.add_argument("--best", action="store_true", help="channels_last, and bfloat16 by autocast")
    arguments = parser.parse_args()
    TASKS[arguments.task](arguments)


def predict(arguments: argparse.Namespace) -> None:
    """Write the probabilities of every image below a folder."""
    model = build(arguments).eval()
    dataset = create_dataset(name="", root=str(arguments.data), split="validation")
    loader = create_loader(
        dataset,
        batch_size=arguments.batch_size or 256,
        num_workers=2 if arguments.workers is None else arguments.workers,
        device=arguments.device,
        **settings_of(model, arguments),
    )
    outputs = []
    with torch.inference_mode():
        for images, _ in loader:
            with autocast(arguments):
                logits = model(laid_out(images, arguments))
            outputs.append(logits.softmax(-1).float())
    columns = [f"prob_{number}" for number in range(arguments.classes)]
    table = pd.DataFrame(torch.cat(outputs).numpy(force=True), columns=columns)
    table.insert(0, "filename", loader.dataset.filenames(basename=True))
    table.to_csv(arguments.out, index=False)


def train(arguments: argparse.Namespace) -> None:
    """Train and validate, print the end of each epoch, and save checkpoints and a summary."""
    random_seed(42)
    model = build(arguments)
    config = settings_of(model, arguments)
    batch_size, workers = arguments.batch_size or 128, 4 if arguments.workers is None else arguments.workers
    training, validation = (
        create_dataset("", root=str(arguments.data), split=split, is_training=split == "train")
        for split in ("train", "validation")
    )
    interpolation = config.pop("interpolation")
    augmented = create_loader(
        training,
        batch_size=batch_size,
        num_workers=workers,
        device=arguments.device,
        is_training=True,
        color_jitter=0.4,
        interpolation="random",
        **config,
    )
    plain = create_loader(
        validation,
        batch_size=batch_size,
        num_workers=workers,
        device=arguments.device,
        interpolation=interpolation,
        **config,
    )
    optimizer = create_optimizer_v2(model, "sgd", lr=0.1 * batch_size / 256, weight_decay=2e-5, momentum=0.9)
    schedule, _ = create_scheduler_v2(
        optimizer, num_epochs=arguments.epochs, warmup_epochs=5, warmup_lr=1e-5, updates_per_epoch=len(augmented)
    )
    arguments.out.mkdir(parents=True)
    saver = CheckpointSaver(model, optimizer, checkpoint_dir=str(arguments.out), recovery_dir=str(arguments.out))
    loss_of = LabelSmoothingCrossEntropy(0.1)
    for epoch in range(arguments.epochs):
        schedule.step(epoch)
        model.train()
        mean, updates = AverageMeter(), epoch * len(augmented)
        for images, targets in augmented:
            with autocast(arguments):
                loss = loss_of(model(laid_out(images, arguments)), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            updates += 1
            mean.update(loss.item(), len(images))
            schedule.step_update(num_updates=updates, metric=mean.avg)
        validated = validate(model, plain, arguments)
        summary = str(arguments.out / "summary.csv")
        update_summary(epoch, {"loss": mean.avg}, validated, summary, write_header=epoch == 0)
        saver.save_checkpoint(epoch, metric=validated["top1"])
        print(f"epoch {epoch + 1}  loss {mean.avg:.4f}  top1 {validated['top1']:.2f}", flush=True)


def validate(
    model: nn.Module, loader: Iterator[tuple[torch.Tensor, torch.Tensor]], arguments: argparse.Namespace
) -> dict[str, float]:
    """Return the loss and the accuracy in percent on the images of a loader."""
    model.eval()
    losses, top1 = AverageMeter(), AverageMeter()
    with torch.inference_mode():
        for images, targets in loader:
            with autocast(arguments):
                logits = model(laid_out(images, arguments))
                loss = nn.functional.cross_entropy(logits, targets)
            losses.update(loss.item(), len(images))
            top1.update(accuracy(logits, targets)[0].item(), len(images))
    return {"loss": losses.avg, "top1": top1.avg}


def build(arguments: argparse.Namespace) -> nn.Module:
    model = timm.create_model(arguments.model, num_classes=arguments.classes, checkpoint_path=arguments.checkpoint)
    return model.to(arguments.device, memory_format=torch.channels_last if arguments.best else torch.preserve_format)


def settings_of(model: nn.Module, arguments: argparse.Namespace) -> dict[str, object]:
    """Return timm's preprocessing for this network at the given size."""
    config = resolve_data_config({"input_size": (3, arguments.size, arguments.size)}, model=model)
    return {name: config[name] for name in ("input_size", "interpolation", "mean", "std", "crop_pct")}


def laid_out(images: torch.Tensor, arguments: argparse.Namespace) -> torch.Tensor:
    return images.contiguous(memory_format=torch.channels_last) if arguments.best else images


def autocast(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[object]:
    return torch.autocast(arguments.device.type, dtype=torch.bfloat16) if arguments.best else contextlib.nullcontext()


TASKS = {"predict": predict, "train": train}

if __name__ == "__main__":
    main()
