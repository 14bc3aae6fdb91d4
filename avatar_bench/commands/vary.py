"""vary: write the images of robustness as files, for systems that can only be given files."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig

from avatar_bench.config.options import option, path_option
from avatar_bench.config.schema import ADDRESSES, RESIZE, SIDE, ImageSetConfig, choose
from avatar_bench.console.progress import track
from avatar_bench.console.terminal import print_line, print_note
from avatar_bench.errors import ConfigError, OutputError
from avatar_bench.files.output_folder import LockedError, exclusive_lock
from avatar_bench.runs.record import choose_run

if TYPE_CHECKING:
    from avatar_bench.data.transforms import Preprocessing
    from avatar_bench.data.variation_set import VariationSet
    from avatar_bench.runs.run import Run

_BLOCK = "robustness"
_UNUSED = (0.5, 0.5, 0.5)  # mean and std, which only the network applies


@dataclass
class VaryConfig:
    out: str = path_option("folder of the images and their manifest", MISSING, example="varied")
    ckpt: str | None = path_option(f"a run{ADDRESSES}: for its input size and its data; null: size= and data=")
    size: int | None = option(None, help="pixels per side of the input, without ckpt", **SIDE)
    resize: str = option("squash", help="how images are brought to that size", **RESIZE)
    at: str = option(
        "input",
        help="where corruptions are applied: to images of the input size, or of their own",
        **choose("input", "native"),
    )
    split: str = option("test", help="of data=run: test, val, calibration, blind, or the name of one of its data.ood")
    data: ImageSetConfig = field(default_factory=ImageSetConfig)
    block: dict[str, Any] = option({}, help="options of robustness")


def check(cfg: DictConfig) -> None:
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


def execute(settings: VaryConfig) -> None:
    """Write the images and their manifest to `out`, and print a one-line summary; files that exist are kept.

    Raise DataError if the folder holds other files or an image cannot be decoded, ConfigError if it holds other
    variations, OutputError if a file cannot be written.
    """
    from avatar_bench.data.leakage import refuse_changed_files
    from avatar_bench.data.variation_set import MANIFEST, VariationSet
    from avatar_bench.evaluation.block import build_block
    from avatar_bench.evaluation.blocks.robustness import Robustness
    from avatar_bench.sources.dataset_kinds import open_images

    block = build_block(_BLOCK, settings.block[_BLOCK])
    assert isinstance(block, Robustness)
    run = None
    if settings.ckpt is not None:
        path = choose_run(settings.ckpt)
        from avatar_bench.runs.ensembles import open_run

        run = open_run(path)
    dataset = run.dataset(settings.split) if settings.data.kind == "run" and run else open_images(settings.data)
    preprocessing = _find_preprocessing(settings, run)
    prepare = preprocessing if settings.at == "input" else None
    about = {"at": settings.at} | ({"preprocessing": preprocessing.to_dict()} if prepare and preprocessing else {})
    files = VariationSet(dataset, block.list_variations(), prepare, Path(settings.out), about)
    files.refuse_other_files()
    refuse_changed_files(dataset)
    _announce(files)
    try:
        files.out.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(files.out / ".lock"):
            new = sum(track(files.write(), "images", len(dataset)))
    except LockedError as error:
        raise OutputError(f"out={settings.out}: another process is writing it.", "Wait for it.") from error
    except OSError as error:
        raise OutputError(f"out={settings.out} cannot be written: {error.strerror or error}.") from error
    kept = f", {len(files) - new} kept from before" if new < len(files) else ""
    print_line(f"{files.out / MANIFEST}: {len(files)} files of {len(dataset)} images{kept}")


def _find_preprocessing(settings: VaryConfig, run: Run | None) -> Preprocessing | None:
    """Return the resizing to the network's size, None without a network or size."""
    if run is None:
        from avatar_bench.data.transforms import Preprocessing

        return Preprocessing(settings.size, settings.resize, _UNUSED, _UNUSED) if settings.size else None
    known = run.predictor.preprocessings
    if len(known) != 1 and settings.at == "input":
        raise ConfigError(
            f"ckpt={settings.ckpt}: its networks resize images in {len(known)} ways.",
            "Choose one: size=224 resize=squash, or at=native",
        )
    for setting, value in {"equalise": known[0].equalise, "mask": known[0].mask}.items():
        if value and settings.at == "input":
            print_note(
                f"{run.name} changes every image (data.{setting}={value}), and would change these again: "
                "its predictions of them differ from those of robustness"
            )
    return known[0]


def _announce(files: VariationSet) -> None:
    """Print the number and the size of the files; raise OutputError if the disk has not enough space."""
    folder = next(parent for parent in (files.out.absolute(), *files.out.absolute().parents) if parent.exists())
    size, free = files.estimate_bytes(), shutil.disk_usage(folder).free
    print_note(f"{files.out}: {len(files)} files, about {size / 1e6:.1f} MB")
    if size > free:
        raise OutputError(f"out={files.out} needs about {size / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free.")
