"""Tests of config validation: no option exposes environment variables."""

from omegaconf import OmegaConf

from avatar_bench.cli.app import main
from avatar_bench.config.validation import check_values, escape_interpolations


def test_what_the_environment_holds_is_never_printed_and_other_references_are_allowed(tmp_path, capfd, monkeypatch):
    for word in (
        "data.name=${oc.env:CANARY}",
        "logger=wandb logger.wandb.project=${oc.env:CANARY}",
        "+model.options.a=${oc.select:no,${oc.env:CANARY}}",
        "+model.options.a=${${seed}:CANARY}",
        "out=${oc.env:CANARY} data.root=/nowhere",
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("CANARY", "tweet-7f3a")
        assert main(["train", "data=folder", "data.root=none", *word.split()]) in (2, 3)
        printed = capfd.readouterr()
        assert "tweet-7f3a" not in printed.out + printed.err
        assert len(printed.err.splitlines()) <= 3
        assert not any("tweet" in str(path) for path in tmp_path.rglob("*"))
    for text in ("${a.b}/c", "${..a}", "${hydra:job.name}", "${now:%Y}", "${units:source}", r"\${oc.env:A}"):
        check_values({"a": [{"b": text}]})
    values = {"a": ["${oc.env:HOME}", r"c:\${x}", r"\\${y}", "$", 1, None]}
    assert OmegaConf.to_container(OmegaConf.create(escape_interpolations(values)), resolve=True) == values
