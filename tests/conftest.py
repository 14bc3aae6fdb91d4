"""Fixtures of all tests: tiny images of three classes, and a tiny run trained on them."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import subprocess
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from tests.builders.commands import reseal_checkpoint

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks lose more to threads than they gain

# used by tensorboard and OpenVINO: it keeps the stream of its import, which Hydra's logging would close
with contextlib.suppress(ImportError), contextlib.redirect_stderr(io.StringIO()):
    importlib.import_module("absl.logging")

# a loaded machine is slow, and the same examples everywhere make a failure one that can be repeated
settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("tests")

BACKBONE = "test_resnet.r160_in1k"
SOURCES = {"drawing": ("ink", "crayon", "vector"), "generated": ("gan", "diffusion"), "real": ("studio", "street")}
A_CLASS, A_BLIND_CLASS = 64, 14
ENDINGS = (".png", ".jpg", ".webp")
SHADE = 50  # of 255; with less, images of a class would be near-duplicates


def pytest_configure(config: pytest.Config) -> None:
    """Set up a cache without trials: one that is kept for a run changes the digits of its predictions."""
    if "AVATAR_BENCH_CACHE" not in os.environ:  # pytest's workers inherit it
        folder = config.rootpath / ".pytest_cache" / "avatar_bench"
        shutil.rmtree(folder / "trials", ignore_errors=True)
        os.environ["AVATAR_BENCH_CACHE"] = str(folder)
        os.environ["XDG_DATA_HOME"] = str(folder / "data")  # of the key that signs configurations


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first: a worker that gets one of them last would run on alone."""
    cost: dict[Path, tuple[float, int]] = {}
    for item in items:
        timeout = item.get_closest_marker("timeout")
        longest, slow = cost.get(item.path, (0, 0))
        is_slow = item.get_closest_marker("slow") is not None
        cost[item.path] = max(longest, timeout.args[0] if timeout else 0), slow + is_slow
    items.sort(key=lambda item: cost[item.path], reverse=True)


def draw(label: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw an image (H, W, 3) with colour and texture of its class and unique shades."""
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
    """Write images to root/folder/<class>/<source>/, two per group, and the manifest root/<folder>.csv."""
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


@pytest.fixture(scope="session", autouse=True)
def no_aligned_search() -> Iterator[None]:
    """Switch off the search for aligned copies, which takes seconds for each set; its own tests switch it on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avatar_bench.inference.copy_search.search_aligned_copies", lambda known, dataset: [])
        yield


@pytest.fixture(scope="session", autouse=True)
def no_progress_lines() -> Iterator[None]:
    """Print no lines of progress: pytest's process is older than half a minute, a command's is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avatar_bench.console.progress._LINE_SECONDS", float("inf"))
        yield


@pytest.fixture(scope="session")
def small(images: Path) -> list[str]:
    """Options of a training of about a second, with one epoch per stage."""
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
    """Return a function that trains a small run in a folder, with further or other options."""
    from avatar_bench.cli.app import main

    def run(out: Path, *words: str, code: int = 0) -> Path:
        given = {word.partition("=")[0].lstrip("+") for word in words}
        kept = [word for word in small if word.partition("=")[0] not in given]
        assert main(["train", *kept, f"out={out}", *words]) == code
        return out

    return run


@pytest.fixture(scope="session")
def tiny_run(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished run that has learned its classes; never write into it (except predictions/ and evaluation/)."""
    return train(tmp_path_factory.mktemp("runs") / "tiny", "epochs=6")


@pytest.fixture(scope="session")
def run_pair(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs trained differently from the same weights; never write into them (except predictions/)."""
    root = tmp_path_factory.mktemp("pair")
    return [train(root / f"lr{number}", "epochs=2", f"lr={lr}") for number, lr in enumerate(("3e-3", "1e-3"))]


@pytest.fixture
def run_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """Copy of the tiny run that a test may change."""
    found = shutil.ignore_patterns("evaluation", "predictions")
    return Path(shutil.copytree(tiny_run, tmp_path / "copy", ignore=found))


@pytest.fixture
def reseal() -> Callable[[Path], None]:
    """Return a function that updates the .sha256 file and the record of a file changed by a test."""
    return reseal_checkpoint


@pytest.fixture(scope="session")
def card() -> dict[str, Any]:
    """Card of a small checkpoint, as plain values."""
    from avatar_bench.models.model_card import Card

    preprocessing = {"size": 32, "resize": "squash", "mean": [0.5] * 3, "std": [0.25] * 3}
    return Card(("a", "b"), "test_resnet", preprocessing).plain()


@pytest.fixture(scope="session")
def small_checkpoint(card: dict[str, Any]) -> Callable[..., Path]:
    """Return a function that writes a small checkpoint without weights and with a changed card."""
    import torch

    def write(file: Path, **other: Any) -> Path:
        state = OrderedDict((f"net.{name}", torch.randn(5, 3)) for name in "abc")
        torch.save({"state_dict": state, "epoch": 3, "rate": 0.25, "avatar_bench": {**card, **other}}, file)
        return file

    return write


@pytest.fixture(scope="session")
def network() -> Callable[[str], Any]:
    """Return a function that builds the network of a conf/model yaml without weights; tests must not change it.

    Transformers of a fixed size are built for small images, and with two blocks, but for the smallest.
    """
    import torch
    import yaml

    from avatar_bench.config.catalogue import find_choices
    from avatar_bench.models.backbones import create_backbone, resolve_options

    @cache
    def build(model: str) -> Any:
        recipe = yaml.safe_load(find_choices("model")[model].read_text(encoding="utf-8"))["model"]
        is_large = recipe["backbone"].startswith(("vit_", "deit_small", "eva02_base"))
        options = recipe.get("options", {}) | ({"depth": 2} if is_large else {})
        side = 56 if "patch14" in recipe["backbone"] else 64
        torch.manual_seed(0)
        return create_backbone(recipe["backbone"], 3, options=resolve_options(recipe["backbone"], options, side))

    return build


@pytest.fixture(scope="session")
def inside() -> Callable[[Figure], bool]:
    """Return a function that draws a figure and checks that all of it lies inside, to .02 inch."""

    def within(figure: Figure) -> bool:
        figure.set_dpi(100)
        figure.draw_without_rendering()
        drawn = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        return bool(drawn.x0 > -0.02 and drawn.y0 > -0.02 and drawn.x1 < width + 0.02 and drawn.y1 < height + 0.02)

    return within


@pytest.fixture(scope="module")  # no longer: its event loop would refuse those of other tests
def chromium() -> Iterator[Any]:
    """A headless Chromium; skipped where it or playwright is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no Chromium on the PATH")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, kept in the cache, from npm; skipped where npm or the network is missing."""
    kept = Path(os.environ["AVATAR_BENCH_CACHE"], "axe-core-4.min.js")
    if kept.is_file():  # of another of pytest's workers, or of an earlier run
        return kept.read_text(encoding="utf-8")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm to fetch axe-core with")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "install", "--no-save", "--silent", "--prefix", str(folder), "axe-core@4"]
    if subprocess.run(command, capture_output=True, timeout=300, check=False).returncode:
        pytest.skip("npm cannot fetch axe-core")
    kept.parent.mkdir(parents=True, exist_ok=True)
    copy = shutil.copy(folder / "node_modules" / "axe-core" / "axe.min.js", kept.with_suffix(f".{os.getpid()}"))
    return Path(copy).replace(kept).read_text(encoding="utf-8")  # in one step: two workers may be here at once


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Open a page in a window of its own, and fail at its end where it complained, asked, or called anywhere."""
    windows, heard = [], []

    def go(file: Path, width: int = 1600, theme: str = "light", **options: Any) -> Any:
        window = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
        windows.append(window)
        page = window.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda said: heard.append(said.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: heard.append(dialog.message) or dialog.dismiss())
        page.on("request", lambda sent: sent.url.startswith(("file:", "data:", "blob:")) or heard.append(sent.url))
        page.goto(file.as_uri())
        return page

    yield go
    for window in windows:
        window.close()
    assert heard == []
