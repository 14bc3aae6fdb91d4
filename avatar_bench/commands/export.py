"""export: write a run's network to one file for use elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from avatar_bench.config.schema import ExportConfig
from avatar_bench.errors import ConfigError, OutputError
from avatar_bench.files.lock import prepare_output
from avatar_bench.runs.record import check_run, choose_newest_run, read_json

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run


def export(cfg: DictConfig) -> None:
    """Write the network with its card to `out`, and the card as a JSON file beside it.

    Raises CheckpointError for an invalid run, BlockError for an ensemble of several networks, OutputError if `out`
    cannot be written.
    """
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, ExportConfig)
    path, file = Path(settings.ckpt) if settings.ckpt else choose_newest_run(), Path(settings.out)
    check_run(path)  # fail before torch is loaded
    prepare_output(settings.out, "out")
    card = _choose_card_path(file)
    _refuse_foreign_weights(file)
    from avatar_bench.inference.export import refuse_missing_runtime
    from avatar_bench.runs.ensembles import open_run

    refuse_missing_runtime(file)
    size, classes = _write_files(open_run(path, accelerator="cpu"), file, card)
    print(f"{file}: {size / 1e6:.1f} MB, classes {', '.join(classes)}; card: {card}")


def _write_files(run: Run, file: Path, card: Path) -> tuple[int, tuple[str, ...]]:
    """Write the network and its card; return its size in bytes and the classes in the order of its outputs."""
    from avatar_bench.inference.export import describe_export, encode_export, write_export

    classifier, provenance = run.classifier, _describe_provenance(run)
    classifier.card = replace(classifier.card, temperature=run.temperature)  # a soup has its own temperature
    contents = encode_export(classifier, provenance, file.suffix)
    try:
        for suffix, data in contents.items():
            write_export(data, file.with_suffix(suffix))
        write_export(describe_export(classifier, provenance, file, contents).encode(), card)
    except OSError as error:
        raise OutputError(
            f"out={file} cannot be written: {error.strerror or error}.", "Choose another: out="
        ) from error
    return sum(map(len, contents.values())), run.classes


def _describe_provenance(run: Run) -> dict[str, Any]:
    """Return the provenance of the exported network: checkpoint hash, ancestors and fields of the run record."""
    known = {name: run.record.get(name) for name in ("name", "finished", "best_epoch", "metrics", "allow")}
    known["ancestors"] = run.ancestors
    return {"checkpoint_sha256": run.checkpoint_sha256, **{name: value for name, value in known.items() if value}}


def _choose_card_path(file: Path) -> Path:
    """Return the path of the card; raise ConfigError if another file would be overwritten."""
    place = file.with_suffix(".json")
    try:
        ours = not place.exists() or "avatar_bench" in read_json(place)
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise ConfigError(f"out={file}: its card would overwrite {place}, which is no card.", "Choose another: out=")
    return place


def _refuse_foreign_weights(file: Path) -> None:
    """Raise ConfigError if the .bin file beside an .xml file would overwrite a foreign file."""
    weights = file.with_suffix(".bin")
    if file.suffix == ".xml" and weights.exists() and not file.exists():
        raise ConfigError(f"out={file}: its weights would overwrite {weights}.", "Choose another: out=")
