"""app: show a local web page that classifies images, with an HTTP API."""

from __future__ import annotations

import getpass
import re
import sys
from contextlib import closing
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import ClassVar

from omegaconf import DictConfig

from avatar_bench.commands.predict import PredictConfig, check_predictions
from avatar_bench.config.options import copy_option, option, path_option
from avatar_bench.config.schema import COUNT, POSITIVE, ViewConfig, find_schema
from avatar_bench.console.terminal import print_note
from avatar_bench.errors import ConfigError
from avatar_bench.plugins.app.passwords import Passwords, hash_password
from avatar_bench.runs.record import choose_run


@dataclass
class AppLimitsConfig:
    """What the app refuses beyond; images have at most 50 million pixels, as everywhere."""

    image_mb: float = option(20.0, help="size of an image in MB; at most 256", range=(0.001, 256))
    batch_mb: float = option(500.0, help="size of the images dropped at once in MB", **POSITIVE)
    batch_images: int = option(500, help="images dropped at once", **COUNT)
    queue: int = option(32, help="images, and uploads, that wait at once", **COUNT)
    seconds: float = option(60.0, help="for which an image waits, and an upload takes", **POSITIVE)


@dataclass
class AppConfig:
    ckpt: str | None = copy_option(PredictConfig, "ckpt", is_main=True)
    host: str = option("127.0.0.1", help="address to listen on; 0.0.0.0: all of this machine")
    port: int = option(7860, help="0: any free one", range=(0, 65535))
    names: list[str] = option(
        [],
        help="further host names by which browsers reach it",
        check=lambda names: all(re.fullmatch(r"[\w.-]+", name) for name in names),
        expected="host names such as avatars.example",
    )
    auth: str | None = path_option("file with a line NAME:HASH for each person, see hash; null: no passwords")
    hash: str | None = option(None, help="ask for a password, print the line of this name for auth, and end")
    lang: str = copy_option(PredictConfig, "lang", help="language of the page")
    explain: bool = option(True, help="show the Grad-CAM of the predicted class")
    calibrated: bool = copy_option(PredictConfig, "calibrated")
    target_error: float | None = copy_option(PredictConfig, "target_error")
    per_class: bool = copy_option(PredictConfig, "per_class")
    false_alarms: float | None = copy_option(PredictConfig, "false_alarms")
    target: str | None = copy_option(PredictConfig, "target")
    unit: str = copy_option(PredictConfig, "unit")
    stability: bool = copy_option(PredictConfig, "stability")
    costs: str | None = copy_option(PredictConfig, "costs")
    alpha: float = copy_option(PredictConfig, "alpha")
    runtime: str = copy_option(PredictConfig, "runtime")
    precision: str = copy_option(PredictConfig, "precision")
    accelerator: str = copy_option(PredictConfig, "accelerator")
    threads: int | None = copy_option(PredictConfig, "threads")
    limits: AppLimitsConfig = field(default_factory=AppLimitsConfig)
    view: ViewConfig = field(default_factory=ViewConfig)
    allow: list[str] = copy_option(PredictConfig, "allow")
    columns_enabled: ClassVar[bool] = True


def check(cfg: DictConfig) -> None:
    """Raise ConfigError if an option that predict has too is invalid."""
    check_predictions(cfg)


def execute(settings: AppConfig) -> None:
    """Serve the page and the API until Ctrl-C; with `hash`, print a line for the file `auth` instead.

    Raise ConfigError without the extra app or for an unsafe `auth`, OutputError if the address is taken.
    """
    if settings.hash is not None:
        print(hash_password(settings.hash, _read_password()))
        return
    if missing := [name for name in ("fastapi", "uvicorn", "python_multipart") if find_spec(name) is None]:
        raise ConfigError(f"app needs {missing[0]}.", "Install it: pip install 'avatar-bench[app]'")
    path = choose_run(settings.ckpt)
    options = _select_predict_options(settings)
    for columns in options.find_columns().values():
        columns.open()
    passwords = Passwords.read(Path(settings.auth)) if settings.auth else None
    from avatar_bench.plugins.app.uploads import open_app_folder

    print_note(f"Loading {path} ...")
    with open_app_folder() as app_folder:
        uploads, overlays = (Path(mkdtemp(dir=app_folder)) for _ in range(2))
        from avatar_bench.plugins.app import web_server
        from avatar_bench.plugins.app.image_service import ImageService
        from avatar_bench.runs.file_predictor import open_file_predictor

        with web_server.open_socket(settings.host, settings.port) as listener:
            predictor, notes = open_file_predictor(path, options, 1)
            notes = [*notes, *predictor.load()]
            limits, drawn = settings.limits, overlays if settings.explain else None
            with closing(ImageService(predictor, drawn, limits.queue, limits.seconds)) as service:
                app = web_server.build_app(service, uploads, listener, settings, passwords)
                if passwords is None and not web_server.is_loopback(listener):
                    notes.append("Other machines reach the app without a password: set auth=FILE, see app --help.")
                print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
                print(f"{predictor.run.name}: {web_server.format_address(listener)} (Ctrl-C ends it)", flush=True)
                web_server.build_server(app).run(sockets=[listener])


def _select_predict_options(settings: AppConfig) -> PredictConfig:
    schema: type[PredictConfig] = find_schema("predict")
    names = {member.name for member in fields(settings)} - {"explain"}  # here a switch, there a folder
    shared = {member.name: getattr(settings, member.name) for member in fields(schema) if member.name in names}
    return schema(**shared, input="-", output="-", batch_size=1, workers=0)


def _read_password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise ConfigError("The passwords differ.", "Type the same one twice.")
    return password
