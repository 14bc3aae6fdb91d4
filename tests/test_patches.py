"""Behaviour of libraries that a patch of ours replaces: a test that fails here says that its patch may go."""

import sys
from types import SimpleNamespace

import hydra._internal.hydra
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import OmegaConf

from avatar_bench.config.composition import keep_hydra_state


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="argparse refuses it there")
def test_hydra_gives_argparse_a_help_that_is_no_string():
    """Replaced in cli/app.py."""
    assert [action.dest for action in get_args_parser()._actions if not isinstance(action.help, str | None)]


def test_hydra_composes_a_configuration_twice_and_shows_it_to_nobody(tmp_path, monkeypatch):
    """Replaced in config/composition.py."""
    (tmp_path / "app.yaml").write_text("hydra: {run: {dir: .}, output_subdir: null, job: {chdir: false}}\n")
    compositions = []

    class CountingLoader(ConfigLoaderImpl):
        def load_configuration(self, *arguments, **options):
            compositions.append(options["run_mode"])
            return super().load_configuration(*arguments, **options)

    with keep_hydra_state():
        monkeypatch.setattr(hydra._internal.hydra, "ConfigLoaderImpl", CountingLoader)
        monkeypatch.setattr(sys, "argv", ["app"])
        monkeypatch.chdir(tmp_path)
        hydra.main(config_path=str(tmp_path), config_name="app", version_base="1.3")(lambda cfg: None)()
    assert compositions == [RunMode.MULTIRUN, RunMode.RUN]
    assert not hasattr(Callback, "on_before_compose_config")


def test_hydra_takes_no_launcher_from_outside_its_namespace():
    """Replaced in cli/sweep.py."""
    with pytest.raises(RuntimeError, match="not the hydra_plugins package"):
        Plugins.instance()._instantiate(OmegaConf.create({"_target_": "avatar_bench.cli.sweep.TrackedLauncher"}))


def test_the_launcher_of_submitit_raises_at_the_first_killed_job(tmp_path, monkeypatch):
    """Replaced in cli/slurm_launcher.py."""
    submitit = pytest.importorskip("submitit")
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher

    called = []

    def fail():
        raise submitit.core.utils.UncompletedJobError("killed")

    jobs = [SimpleNamespace(results=fail), SimpleNamespace(results=lambda: called.append(2) or ["done"])]
    monkeypatch.setattr(submitit.AutoExecutor, "map_array", lambda *arguments: jobs)
    launcher = LocalLauncher(submitit_folder=str(tmp_path), timeout_min=1)
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    launcher.setup(hydra_context=SimpleNamespace(), task_function=lambda cfg: None, config=config)
    with pytest.raises(submitit.core.utils.UncompletedJobError):
        launcher.launch([["a=1"], ["a=2"]], 0)
    assert called == []


def test_the_client_of_the_hub_reads_its_environment_once(monkeypatch):
    """Replaced in models/backbones.py."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    monkeypatch.setenv("HF_HUB_OFFLINE", str(int(not before)))
    assert before == constants.HF_HUB_OFFLINE


def test_a_style_of_dicebear_is_validated_whoever_made_it():
    """Replaced in sources/readers/drawn.py."""
    dicebear = pytest.importorskip("dicebear")
    with pytest.raises(dicebear.StyleValidationError):
        dicebear.Style({})
