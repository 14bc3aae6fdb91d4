"""Runs in repositories of the Hugging Face hub: downloading one into the cache, and uploading one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import avatar_bench
from avatar_bench.errors import AvatarBenchError, CheckpointError, ConfigError
from avatar_bench.files.hashes import compute_git_hash, sha256_of_file
from avatar_bench.files.paths import HUB, cache_root, parse_hub_address
from avatar_bench.runs.record import RECORD, SHARED_WEIGHTS, is_imported
from avatar_bench.runs.run_images import TRAINED_ON
from avatar_bench.runs.saved_calibration import CALIBRATION, REFERENCE, SOURCE_CALIBRATION

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

CARD_FILE = "README.md"
EVAL_RESULTS = ".eval_results/avatar-bench.yaml"
# of a run: no code, and no pickle
_FILES = (RECORD, SHARED_WEIGHTS, CALIBRATION, REFERENCE, SOURCE_CALIBRATION, TRAINED_ON)
_LOG_IN = "Needed: a connection and, to write or to read what is private, `hf auth login` or HF_TOKEN."


def fetch_run(address: str, option: str = "ckpt") -> Path:
    """Return the folder in the cache of a run on the hub, downloaded if it is not there.

    Raise CheckpointError if there is no such run, or if a file is not the one that the hub states.
    """
    from huggingface_hub import HfApi, snapshot_download

    repository, revision = parse_hub_address(address, option)
    with _explain_errors(f"{option}={address}"):
        snapshot = Path(snapshot_download(repository, revision=revision, allow_patterns=list(_FILES)))
        owner, name = repository.split("/")
        folder = cache_root() / "hub" / owner / f"{name}@{snapshot.name[:12]}"
        if not folder.is_dir():
            siblings = HfApi().model_info(repository, revision=snapshot.name, files_metadata=True).siblings or []
            stated = {sibling.rfilename: sibling for sibling in siblings}
            _copy_run({file: stated.get(file.name) for file in sorted(snapshot.iterdir())}, folder)
    return folder


def upload_run(folder: Path, address: str, is_private: bool) -> str:
    """Upload the files of a shared run to a repository, which is created if it does not exist; return the commit.

    Raise ConfigError if the repository holds something else, or is public against `is_private`.
    """
    from huggingface_hub import HfApi

    repository, revision = parse_hub_address(address, "to")
    if revision is not None:
        raise ConfigError(f"to={address}: a run is pushed to the main branch.", "Expected hf:OWNER/NAME.")
    api = HfApi()
    with _explain_errors(f"to={address}"):
        api.create_repo(repository, private=is_private, exist_ok=True)
        model = api.model_info(repository)
        others = {sibling.rfilename for sibling in model.siblings or ()} - {".gitattributes", CARD_FILE}
        if others and RECORD not in others:
            raise ConfigError(f"to={address} holds something else: {min(others)}.", "Choose another repository.")
        if is_private and not model.private:
            raise ConfigError(f"to={address} is public.", "Choose another, or publish the run with private=false.")
        commit = api.upload_folder(  # one commit, so that weights and card change together
            repo_id=repository,
            folder_path=folder,
            delete_patterns=[*_FILES, EVAL_RESULTS],  # if not written now, such as the calibration of an earlier push
            commit_message=f"Push by avatar-bench {avatar_bench.__version__}",
        )
        if model.private and not is_private:
            api.update_repo_settings(repository, private=False)
    return f"{HUB}{repository}@{commit.oid}"


def _copy_run(files: dict[Path, RepoSibling | None], folder: Path) -> None:
    """Copy downloaded files to a run folder, each if it has the hash that the hub states."""
    names = {file.name for file in files}
    for needed in (RECORD, SHARED_WEIGHTS):
        if needed not in names:
            raise CheckpointError(
                f"the repository holds no run of avatar-bench: it has no {needed}.",
                "Pickled weights (.bin, .ckpt, .pt) are not read. Share a run with avatar-bench push.",
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".part-") as scratch:
        part = Path(scratch, "run")
        part.mkdir()
        for file, stated in files.items():
            if stated is None or _compute_hash(file, stated) != (stated.lfs.sha256 if stated.lfs else stated.blob_id):
                raise CheckpointError(
                    f"{file.name} is not the file that the hub states, by its hash: it was damaged or tampered with.",
                    f"Delete {file.resolve()}, and download it again.",
                )
            _link(file.resolve(), part / file.name)
        if is_imported(part):
            raise CheckpointError(
                "the repository holds an imported detector, which push does not share.",
                "Import it yourself from where it comes from: avatar-bench import --help",
            )
        with suppress(OSError):  # another process was faster
            part.rename(folder)


def _compute_hash(file: Path, stated: RepoSibling) -> str:
    """Compute the SHA-256 of a large file, the hash of git of a small one."""
    return sha256_of_file(file) if stated.lfs else compute_git_hash(file.read_bytes())


def _link(file: Path, target: Path) -> None:
    """Link weights, which are large and never written, to the folder of a run; copy what its commands may replace."""
    if target.name == SHARED_WEIGHTS:
        with suppress(OSError):  # another disk, or one without links
            os.link(file, target)
            return
    shutil.copyfile(file, target)


@contextmanager
def _explain_errors(what: str) -> Iterator[None]:
    """Raise CheckpointError, beginning with `what`, instead of the errors of the hub's client."""
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    except ConfigError:
        raise
    except AvatarBenchError as error:
        raise CheckpointError(f"{what}: {error.lines[0]}", *error.lines[1:]) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"{what}: the repository has no such revision.", "Expected a branch, a tag or a whole commit."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{what}: there is no such repository, or it is private.", _LOG_IN) from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{what}: the hub cannot be reached, and the run is not in the cache.", "Try again with a connection."
        ) from error
    except Exception as error:  # of the network, the hub or its client
        raise CheckpointError(f"{what}: {' '.join(str(error).split())[:300]}", _LOG_IN) from error
