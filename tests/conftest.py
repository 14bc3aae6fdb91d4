"""Tiny images of three classes, and one tiny Run trained on them, for every test that needs either."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks lose more to threads than they gain

# of tensorboard and OpenVINO: it holds on to the stream that is there at its import, and Hydra's logging has it closed
with contextlib.suppress(ImportError), contextlib.redirect_stderr(io.StringIO()):
    importlib.import_module("absl.logging")

BACKBONE = "test_resnet.r160_in1k"
SOURCES = {"drawing": ("ink", "crayon", "vector"), "generated": ("gan", "diffusion"), "real": ("studio", "street")}
A_CLASS, A_BLIND_CLASS = 64, 14
ENDINGS = (".png", ".jpg", ".webp")
SHADE = 50  # of 255; less, and the images of a class would be near-duplicates


def draw(label: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Give an image, (H, W, 3), whose colour and texture tell its class, and whose shades no other image has."""
    height, width = (int(side) for side in rng.integers(40, 65, 2))
    across = np.linspace(0, 1, width)[None, :, None]
    if label == "drawing":  # flat patches on white
        image = np.full((height, width, 3), 255.0)
        top, left = rng.integers(0, 15, 2)
        image[top : top + 20, left : left + 20] = rng.integers(0, 80, 3)
    elif label == "generated":  # a smooth purple
        image = np.broadcast_to((150, 60, 200) + 60 * across * rng.uniform(-1, 1), (height, width, 3)).copy()
    else:  # brown grain
        image = rng.normal((110, 90, 60), 35, (height, width, 3))
    coarse = Image.fromarray(rng.uniform(-SHADE, SHADE, (8, 8)).astype(np.float32))
    shade = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))[..., None]
    return np.clip(image + shade + rng.normal(0, 8, 3), 0, 255).astype(np.uint8)


def draw_set(root: Path, folder: str, a_class: int, sources: dict[str, tuple[str, ...]], seed: int) -> None:
    """Fill root/folder/<class>/<source>/ with images, two a group, and write root/<folder>.csv."""
    rng = np.random.default_rng(seed)
    rows = []
    for label, names in sources.items():
        for number in range(a_class):
            source = names[number // 2 % len(names)]
            file = root / folder / label / source / f"{number:02}{ENDINGS[number % 3]}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(label, rng)).save(file, quality=95)
            rows.append((file.relative_to(root).as_posix(), label, source, f"{folder}:{label}:{number // 2}"))
    table = pd.DataFrame(rows, columns=["path", "label", "source", "group"])
    table.to_csv(root / f"{folder}.csv", index=False)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all/<class>/<source>/, blind/<class>/<source>/, all.csv and blind.csv; never write into it."""
    root = tmp_path_factory.mktemp("images")
    draw_set(root, "all", A_CLASS, SOURCES, seed=0)
    draw_set(root, "blind", A_BLIND_CLASS, {label: (f"new-{label}",) for label in SOURCES}, seed=1)
    return root


@pytest.fixture(scope="session")
def small(images: Path) -> list[str]:
    """The options of a training that takes a second; its stages have one epoch."""
    return [
        *("model=timm", f"model.backbone={BACKBONE}", "model.weights=none"),
        *("data=manifest", f"data.manifest={images / 'all.csv'}", f"data.blind={images / 'blind.csv'}"),
        *(
            "data.image_size=32",
            "data.batch_size=16",
            "data.workers=0",
            "data.split.folds=4",
            "data.augment.rotation=0",
        ),
        *("trainer=cpu", "trainer.threads=1", "callbacks.progress=false", "logger=none", "epochs=1", "lr=3e-3"),
    ]


@pytest.fixture(scope="session")
def train(small: list[str]) -> Callable[..., Path]:
    """Train a small run with more options, or others, in a folder; give the folder back."""
    from avatar_bench.cli.app import main

    def run(out: Path, *words: str, code: int = 0) -> Path:
        given = {word.partition("=")[0].lstrip("+") for word in words}
        kept = [word for word in small if word.partition("=")[0] not in given]
        assert main(["train", *kept, f"out={out}", *words]) == code
        return out

    return run


@pytest.fixture(scope="session")
def tiny_run(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that knows its classes; never write into it (predictions/ and evaluation/ excepted)."""
    return train(tmp_path_factory.mktemp("runs") / "tiny", "epochs=6")


@pytest.fixture
def run_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run that a test may spoil."""
    found = shutil.ignore_patterns("evaluation", "predictions")
    return Path(shutil.copytree(tiny_run, tmp_path / "copy", ignore=found))


@pytest.fixture
def reseal() -> Callable[[Path], None]:
    """Write the .sha256 beside a file that a test has changed on purpose, and what the run's record says of it."""

    def write(file: Path) -> None:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        file.with_name(f"{file.name}.sha256").write_text(f"{digest}  {file.name}\n")
        record = file.parents[1] / "run.json"
        if record.is_file():
            stated = json.loads(record.read_text(encoding="utf-8")) | {"checkpoint_sha256": digest}
            record.write_text(json.dumps(stated), encoding="utf-8")

    return write


@pytest.fixture(scope="session")
def card() -> dict[str, Any]:
    """The card of a small checkpoint, as plain values."""
    from avatar_bench.models.model_card import Card

    preprocessing = {"size": 32, "resize": "squash", "mean": [0.5] * 3, "std": [0.25] * 3}
    return Card(("a", "b"), "test_resnet", preprocessing).plain()


@pytest.fixture(scope="session")
def small_checkpoint(card: dict[str, Any]) -> Callable[..., Path]:
    """Write a small checkpoint, whole in all but its network, whose card says something else; give the file back."""
    import torch

    def write(file: Path, **other: Any) -> Path:
        state = OrderedDict((f"net.{name}", torch.randn(5, 3)) for name in "abc")
        torch.save({"state_dict": state, "epoch": 3, "rate": 0.25, "avatar_bench": {**card, **other}}, file)
        return file

    return write


@pytest.fixture(scope="session")
def network() -> Callable[[str], Any]:
    """Build the network of a conf/model yaml without weights, once; a test gives it back as it was.

    Transformers of a fixed size are built for small images, see `side_of`, the largest with two blocks.
    """
    import torch
    import yaml

    from avatar_bench.config.catalogue import find_choices
    from avatar_bench.models.backbones import create_backbone, resolve_options

    @cache
    def build(model: str) -> Any:
        recipe = yaml.safe_load(find_choices("model")[model].read_text(encoding="utf-8"))["model"]
        options = recipe.get("options", {}) | ({"depth": 2} if "vit_base" in recipe["backbone"] else {})
        side = 56 if "patch14" in recipe["backbone"] else 64
        torch.manual_seed(0)
        return create_backbone(recipe["backbone"], 3, options=resolve_options(recipe["backbone"], options, side))

    return build


@pytest.fixture(scope="session")
def inside() -> Callable[[Figure], bool]:
    """Return a function that draws a figure and tells whether all of it lies inside, to .02 inch."""

    def within(figure: Figure) -> bool:
        figure.set_dpi(100)
        figure.savefig(io.BytesIO(), format="png")
        drawn = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        return bool(drawn.x0 > -0.02 and drawn.y0 > -0.02 and drawn.x1 < width + 0.02 and drawn.y1 < height + 0.02)

    return within
