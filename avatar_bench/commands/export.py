"""export: write a run's network to one file for use elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from avatar_bench.config.schema import ExportConfig
from avatar_bench.console.progress import open_bar
from avatar_bench.errors import ConfigError, GuardError, OutputError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.lock import prepare_output
from avatar_bench.runs.record import read_json
from avatar_bench.runs.run_choice import choose_run

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run


def execute(settings: ExportConfig) -> None:
    """Write the network with its card to `out`, and the card as a JSON file beside it.

    Raises CheckpointError for an invalid run, BlockError for an ensemble of several networks, OutputError if `out`
    cannot be written.
    """
    path = choose_run(settings.ckpt)
    file = Path(settings.out or (path if path.is_dir() else path.parent) / "network.onnx")
    kind = file.suffix.lower()
    prepare_output(str(file), "out")
    card = file.with_suffix(".json")
    _refuse_foreign_files(file, card)
    from avatar_bench.inference.export import PAGE, RUNTIME_OF_SUFFIX, describe_export, encode_export
    from avatar_bench.inference.runtimes import refuse_missing_package
    from avatar_bench.runs.ensembles import open_run

    if kind in RUNTIME_OF_SUFFIX:
        refuse_missing_package(RUNTIME_OF_SUFFIX[kind], f"out={file}")
    run = open_run(path, accelerator="cpu")
    known = {name: run.record.get(name) for name in ("name", "finished", "best_epoch", "metrics", "allow")}
    known["ancestors"] = run.ancestors
    provenance = {"checkpoint_sha256": run.checkpoint_sha256} | {name: each for name, each in known.items() if each}
    render = _prepare_page(run, settings) if kind == PAGE else None  # before the network is exported, which takes time
    with open_bar("export", 2, "step") as bar:
        classifier = run.predictor.module
        bar.update()
        contents = encode_export(classifier, provenance, kind)
        bar.update()
    if render is not None:
        contents = {kind: render(contents[kind])}
    files = {file if suffix == kind else file.with_suffix(suffix): data for suffix, data in contents.items()}
    files[card] = describe_export(classifier, provenance, file, contents).encode()
    try:
        for place, data in files.items():
            with atomic_write(place, alone=False) as part:
                part.write_bytes(data)
    except OSError as error:
        reason = f"out={file} cannot be written: {error.strerror or error}."
        raise OutputError(reason, "Free some space, or choose another file: out=FILE") from error
    size = sum(map(len, contents.values())) / 1e6
    print(f"{file}: {size:.1f} MB, classes {', '.join(run.classes)}; card: {card}")


def _prepare_page(run: Run, settings: ExportConfig) -> Callable[[bytes], bytes]:
    """Return the function that makes a page of an ONNX model; print what a user must know of the page's decisions."""
    from avatar_bench.runs.decisions import make_rule
    from avatar_bench.serving.browser_page import DEFAULT_TARGET_ERROR, refuse_equalised, render_page
    from avatar_bench.serving.web_runtime import load_web_runtime

    refuse_equalised(run)
    rule = None
    is_asked = settings.target_error is not None or settings.costs is not None
    try:
        target_error = settings.target_error if is_asked else DEFAULT_TARGET_ERROR
        rule = make_rule(run, target_error, settings.costs, settings.alpha, settings.per_class)
    except GuardError as error:
        if is_asked:
            raise
        print(f"The page makes no decisions: {error.lines[0]}", file=sys.stderr)
    for note in rule.notes if rule else ():
        print(note, file=sys.stderr)
    runtime = load_web_runtime(Path(settings.web_runtime) if settings.web_runtime else None)
    return partial(render_page, run, rule, runtime, settings.lang, allow_large="large_page" in settings.allow)


def _refuse_foreign_files(file: Path, card: Path) -> None:
    """Raise ConfigError if the card, or the .bin file beside an .xml file, would overwrite a foreign file."""
    try:
        ours = not card.exists() or "avatar_bench" in read_json(card)
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise ConfigError(f"out={file}: its card would overwrite {card}, which is no card.", "Choose another: out=FILE")
    weights = file.with_suffix(".bin")
    if file.suffix.lower() == ".xml" and weights.exists() and not file.exists():
        raise ConfigError(f"out={file}: its weights would overwrite {weights}.", "Choose another: out=FILE")
