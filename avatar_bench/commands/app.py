"""app: show a local web page that classifies images, with an HTTP API."""

from __future__ import annotations

import getpass
import os
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from avatar_bench.config.schema import AppConfig, PredictConfig
from avatar_bench.data.evidence.content_credentials import read_trust
from avatar_bench.errors import ConfigError
from avatar_bench.runs.run_choice import choose_run
from avatar_bench.serving.passwords import Passwords, hash_password

_OFFLINE = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_RUN_HISTORY": "False"}


def execute(settings: AppConfig) -> None:
    """Serve the page and the API until Ctrl-C; with `hash`, print a line for the file `auth` instead.

    Raise ConfigError without the extra app or for an unsafe `auth`, OutputError if the address is taken.
    """
    if settings.hash is not None:
        print(hash_password(settings.hash, _read_password()))
        return
    if find_spec("gradio") is None:
        raise ConfigError("app needs gradio.", "Install it: pip install 'avatar-bench[app]'")
    path = choose_run(settings.ckpt)
    trust = read_trust(settings.evidence.trust)
    passwords = Passwords.read(Path(settings.auth)) if settings.auth else None
    from avatar_bench.serving.uploads import Uploads, open_app_folder

    with open_app_folder() as place:
        folders = {name: place / name for name in ("uploads", "overlays", "gradio")}
        for folder in folders.values():
            folder.mkdir(mode=0o700)
        os.environ |= {**_OFFLINE, "GRADIO_TEMP_DIR": str(folders["gradio"])}  # read when gradio is imported
        from avatar_bench.runs.file_predictor import open_file_predictor
        from avatar_bench.serving import web_server
        from avatar_bench.serving.image_service import ImageService

        limits = settings.limits
        with web_server.open_socket(settings.host, settings.port) as listener:
            predictor, notes = open_file_predictor(path, _select_predict_options(settings), 1, trust)
            notes = [*notes, *predictor.load()]
            overlays = folders["overlays"] if settings.explain else None
            service = ImageService(predictor, overlays, limits.queue, limits.seconds)
            image_bytes, batch_bytes = (int(size * 10**6) for size in (limits.image_mb, limits.batch_mb))
            uploads = Uploads(folders["uploads"], image_bytes)
            is_local = web_server.is_loopback(listener) and not settings.names
            page = web_server.build_app(service, uploads, limits.batch_images, settings.lang, is_local)
            guarded = web_server.guard_app(page, listener, settings.names, passwords, image_bytes, batch_bytes, service)
            if passwords is None and not web_server.is_loopback(listener):
                notes.append("Other machines reach the app without a password: set auth=FILE, see app --help.")
            print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
            print(f"{predictor.run.name}: {web_server.format_address(listener)} (Ctrl-C ends it)", flush=True)
            web_server.build_server(guarded).run(sockets=[listener])


def _select_predict_options(settings: AppConfig) -> PredictConfig:
    """Return the options of predict with which every row is made."""
    own = {each.name for each in fields(settings)} - {"explain"}  # here a switch, there a folder
    shared = {each.name: getattr(settings, each.name) for each in fields(PredictConfig) if each.name in own}
    return PredictConfig(**shared, input="-", output="-", batch_size=1, workers=0)


def _read_password() -> str:
    """Return the password that a person types twice, or the first line of standard input that is no terminal."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise ConfigError("The passwords differ.", "Type the same one twice.")
    return password
