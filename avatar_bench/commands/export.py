"""export: write a run's network to one file for use elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from omegaconf import DictConfig

from avatar_bench.config.entries import explain_missing, find_entries, find_entry
from avatar_bench.config.options import get_default, option, path_option
from avatar_bench.config.rules import check_decisions
from avatar_bench.config.schema import (
    ADDRESSES,
    COSTS,
    DECISION_UNIT,
    FALSE_ALARM_RATE,
    LANGUAGE,
    MISS_RATE,
    PER_CLASS,
    TARGET_ERROR,
    guard_option,
)
from avatar_bench.console.progress import open_bar
from avatar_bench.errors import ConfigError, OutputError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.document import read_json
from avatar_bench.files.output_folder import prepare_output
from avatar_bench.runs.record import choose_run

_PAGE_TARGET_ERROR = "as in predict, for a page; null: .05 if the run's calibration has enough images for it"


def _is_export(file: str) -> bool:
    name = Path(file).suffix[1:].lower()
    return name in find_entries("export_format") or explain_missing("export_format", name) is not None


@dataclass
class ExportConfig:
    ckpt: str | None = path_option(
        f"a run folder, a .ckpt file, a soup's folder{ADDRESSES}, or null: the newest run", is_main=True
    )
    out: str | None = path_option(
        "file of the network (.xml: OpenVINO), its card a .json beside it; .html: a page that classifies; "
        "null: network.onnx in the run folder",
        check=_is_export,
        expected="a file that ends in .safetensors, .onnx, .xml or .html",
    )
    lang: str = option("en", help="language of a page", **LANGUAGE)
    target_error: float | None = option(None, **TARGET_ERROR | {"help": _PAGE_TARGET_ERROR})
    per_class: bool = option(False, **PER_CLASS)
    false_alarms: float | None = option(None, **FALSE_ALARM_RATE)
    target: str | None = option(None, help="class of false_alarms", example="generated")
    unit: str = option("image", **DECISION_UNIT)
    costs: str | None = path_option(COSTS)
    alpha: float = option(0.1, **MISS_RATE)
    web_runtime: str | None = path_option("folder of npm's onnxruntime-web, for a page; null: by npm, then the cache")
    allow: list[str] = guard_option("large_page")


def check(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of export is invalid."""
    if Path(cfg.out or "").suffix.lower() != ".html":
        for member in fields(ExportConfig):
            if member.name not in ("ckpt", "out") and (value := cfg[member.name]) != get_default(member):
                raise ConfigError(f"{member.name}={value}: for a page, out=FILE.html, and no other file")
    check_decisions(cfg)


def execute(settings: ExportConfig) -> None:
    """Write the network with its card to `out`, and the card as a JSON file beside it.

    Raises CheckpointError for an invalid run, BlockError for an ensemble of several networks, OutputError if `out`
    cannot be written.
    """
    path = choose_run(settings.ckpt)
    file = Path(settings.out or (path if path.is_dir() else path.parent) / "network.onnx")
    suffix = file.suffix.lower()
    prepare_output(str(file), "out")
    card = file.with_suffix(".json")
    _refuse_foreign_files(file, card)
    from avatar_bench.inference.export_formats import describe_export, describe_network
    from avatar_bench.inference.runtimes import refuse_missing_package
    from avatar_bench.runs.ensembles import open_run

    entry = find_entry("export_format", suffix[1:], f"out={file}")
    if runtime := entry.about.get("runtime"):
        refuse_missing_package(runtime, f"out={file}")
    run = open_run(path, accelerator="cpu")
    known = {name: getattr(run.record, name) for name in ("name", "finished", "best_epoch", "metrics", "allow")}
    known["ancestors"] = run.ancestors
    provenance = {"checkpoint_sha256": run.checkpoint_sha256} | {name: value for name, value in known.items() if value}
    exporter = entry.load()
    if not (hasattr(exporter, "prepare") or hasattr(exporter, "encode")):
        raise ConfigError(f"{entry.module} must define encode(classifier, texts), or prepare(run, options).")
    encode = exporter.prepare(run, settings) if hasattr(exporter, "prepare") else exporter.encode
    with open_bar("export", 2, "step") as bar:
        bar.refresh()
        classifier = run.predictor.module
        classifier.card = replace(classifier.card, temperature=run.temperature)  # of calibrate, where it was run
        bar.update()
        contents = encode(classifier, describe_network(classifier, provenance))
        bar.update()
    files = {file if ending == suffix else file.with_suffix(ending): data for ending, data in contents.items()}
    files[card] = describe_export(classifier, provenance, file, contents).encode()
    try:
        for target, data in files.items():
            with atomic_write(target, alone=False) as part:
                part.write_bytes(data)
    except OSError as error:
        reason = f"out={file} cannot be written: {error.strerror or error}."
        raise OutputError(reason, "Free some space, or choose another file: out=FILE") from error
    size = sum(map(len, contents.values())) / 1e6
    print(f"{file}: {size:.1f} MB, classes {', '.join(run.classes)}; card: {card}")


def _refuse_foreign_files(file: Path, card: Path) -> None:
    """Raise ConfigError if `file`, its card, or the .bin file beside an .xml file would overwrite a foreign file."""
    try:
        is_ours = not card.exists() or "avatar_bench" in read_json(card)
    except (OSError, ValueError, TypeError):
        is_ours = False
    if file.exists() and not card.exists():
        raise ConfigError(f"out={file} is there, without the card of an exported file.", "Choose another: out=FILE")
    if not is_ours:
        raise ConfigError(f"out={file}: its card would overwrite {card}, which is no card.", "Choose another: out=FILE")
    weights = file.with_suffix(".bin")
    if file.suffix.lower() == ".xml" and weights.exists() and not file.exists():
        raise ConfigError(f"out={file}: its weights would overwrite {weights}.", "Choose another: out=FILE")
