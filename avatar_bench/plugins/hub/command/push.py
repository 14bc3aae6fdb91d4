"""push: share a run, with a model card, on the Hugging Face hub or as a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from omegaconf import MISSING

from avatar_bench.config.options import option, path_option
from avatar_bench.console.terminal import format_count, print_line, print_note
from avatar_bench.errors import CheckpointError
from avatar_bench.files.output_folder import new_folder
from avatar_bench.files.paths import is_hub_address
from avatar_bench.runs.record import ENSEMBLE, RECORD, choose_run, is_imported


@dataclass
class PushConfig:
    """Options of push."""

    ckpt: str | None = path_option("a finished run folder, or null: the newest run", is_main=True)
    to: str = path_option("hf:OWNER/NAME, or a new folder for the same files", MISSING, example="hf:OWNER/NAME")
    private: bool = option(True, help="on the hub, only its owner may read it; false publishes it")
    licence: str | None = option(None, help="licence of the run; null: those of its initial weights and its teacher")
    benchmarks: dict[str, str] = path_option(
        "{evaluated set: hf:OWNER/NAME} of benchmarks of the hub, for .eval_results", {}, is_open=True
    )


def execute(settings: PushConfig) -> None:
    """Write the shared run to a folder, or upload it to a repository of the hub, which is private by default.

    Raise CheckpointError if the path is not the folder of a finished run or the hub refuses, DataError if the folder
    holds other files, ConfigError if the repository does, OutputError if the folder cannot be written.
    """
    path, is_hub = choose_run(settings.ckpt), is_hub_address(settings.to)
    if not (path / RECORD).is_file() or is_imported(path):
        what = "an ensemble" if (path / ENSEMBLE).is_file() else "no run folder, or that of an imported detector"
        raise CheckpointError(f"ckpt={path} is {what}.", "Expected the folder of a run made by train.")
    out = Path(settings.to).expanduser()
    with TemporaryDirectory() as scratch, new_folder(Path(scratch, "run") if is_hub else out, "to") as folder:
        _write_files(path, folder, settings)
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        address = str(out)
        if is_hub:
            from avatar_bench.plugins.hub.hub_repository import upload_run

            address = upload_run(folder, settings.to, settings.private)
    seen = "" if not is_hub else "private, " if settings.private else "public, "
    print_line(f"{address}: {seen}{size:.1f} MB; load it with ckpt={address}")


def _write_files(path: Path, folder: Path, settings: PushConfig) -> None:
    """Write the files of a shared run and its card; print what is left out of the card."""
    import yaml

    from avatar_bench.plugins.hub.hub_card import list_eval_results, render_hub_card
    from avatar_bench.plugins.hub.hub_repository import CARD_FILE, EVAL_RESULTS
    from avatar_bench.plugins.hub.shared_run import write_shared_run
    from avatar_bench.reporting.study import read_run
    from avatar_bench.runs.run import Run

    model, problems = read_run(path)
    if model is None:
        raise CheckpointError(f"ckpt={path}: {problems[0].why}.", f"Finish it: avatar-bench train resume={path}")
    for problem in problems:
        print_note(f"left out of the card: {problem.locate(path)}: {problem.why}")
    if not model.results:
        print_note(f"not evaluated, as the card says: avatar-bench evaluate ckpt={path} block=all")
    run = Run.open(path, accelerator="cpu")
    record, fit = write_shared_run(run, folder, settings.licence), run.decision_calibration
    fitted = [len(saved.images) for saved in (fit, run.source_calibration) if saved is not None]
    shared = ["weights, options, and a card with metrics and sources"]
    if record.trained_on:
        shared.append(f"SHA-256 of {format_count(record.trained_on['n'], 'training image')}")
    if fitted:
        images = format_count(sum(fitted), "calibration image")
        shared.append(
            f"of {images} SHA-256 and, apart from it, label, source, probabilities, embedding and a group of a new "
            "name, which a receiver cannot match"
        )
    print_note(f"what is shared: {'; '.join(shared)}")
    address = settings.to if is_hub_address(settings.to) else Path(settings.to).name
    text = render_hub_card(model, record, run.card, fit, address)
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    if entries := list_eval_results(model, settings.benchmarks):
        (folder / EVAL_RESULTS).parent.mkdir()
        (folder / EVAL_RESULTS).write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")
