"""Words that a user types, and what commands leave on the disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest


@contextmanager
def undrawn() -> Iterator[None]:
    """Let commands save empty pages as their figures, which take most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.draw", lambda figure, renderer: None)
        yield


def run_undrawn(words: Sequence[str]) -> int:
    """Run a command that saves empty pages; return its exit code."""
    from avatar_bench.cli.app import main

    with undrawn():
        return main(list(words))


def data_of(manifest: Path | str) -> list[str]:
    """Return the words that name a manifest as the data of a command."""
    return ["data=manifest", f"data.manifest={manifest}"]


def merge_words(words: Sequence[str], *others: str) -> list[str]:
    """Return words without those whose option the others give, and then the others, the last of each option."""
    options = {word.partition("=")[0]: word for word in others}
    return [*(word for word in words if word.partition("=")[0] not in options), *options.values()]


def write_manifest(file: Path, table: pd.DataFrame, root: Path) -> Path:
    """Write a manifest that lies anywhere, of images below another folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table.assign(path=[str(root / path) for path in table["path"]]).to_csv(file, index=False)
    return file


def read_record(run: Path) -> dict[str, Any]:
    """Return the record of a run."""
    return dict(json.loads((run / "run.json").read_text(encoding="utf-8")))


def change_record(run: Path, **changes: Any) -> None:
    """Change some values in the record of a run."""
    (run / "run.json").write_text(json.dumps(read_record(run) | changes), encoding="utf-8")


def read_result(folder: Path, name: str, block: str = "blind_test") -> dict[str, Any]:
    """Return the metrics.json of a block for a set, below the folder of a run or of several."""
    text = (folder / "evaluation" / name / block / "metrics.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def copy_run(run: Path, *copies: Path) -> Path:
    """Copy a run without its predictions and results, and return the last copy."""
    for copy in copies:
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("evaluation", "predictions"))
    return copies[-1]


def interrupt(patch: pytest.MonkeyPatch, epoch: int, error: BaseException, seed: int | None = None) -> None:
    """Interrupt training, of one seed or any, at the end of an epoch, before its checkpoint is written."""
    from avatar_bench.training.trainer import MetricsHistory

    end_epoch = MetricsHistory.on_train_epoch_end

    def stop(self: Any, trainer: Any, module: Any) -> None:
        if seed in (None, module.card.seed) and self.first_epoch + trainer.current_epoch == epoch:
            raise error
        end_epoch(self, trainer, module)

    patch.setattr(MetricsHistory, "on_train_epoch_end", stop)


def reseal_checkpoint(file: Path) -> None:
    """Update the .sha256 file and the record, if any, of a file that was changed."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    file.with_name(f"{file.name}.sha256").write_text(f"{digest}  {file.name}\n")
    if (file.parents[1] / "run.json").is_file():
        change_record(file.parents[1], checkpoint_sha256=digest)


def weaken_run(run: Path, copy: Path) -> Path:
    """Copy a run, and disturb the last layer of its network, so that it is often incorrect."""
    import torch

    file = copy_run(run, copy) / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    weight = checkpoint["state_dict"]["net.fc.weight"]
    generator = torch.Generator().manual_seed(0)
    weight += 4 * weight.std() * torch.randn(weight.shape, generator=generator)
    torch.save(checkpoint, file)
    reseal_checkpoint(file)
    return copy
