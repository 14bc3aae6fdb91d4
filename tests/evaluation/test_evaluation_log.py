"""Log of evaluations: what counts, two commands at once, damaged lines and folders that cannot be written."""

import json
import time

import pytest

from avatar_bench.cli.app import main
from avatar_bench.evaluation.evaluation_log import LOG_FILE, SetUse, count_evaluations, find_logs, log_result
from avatar_bench.files.output_folder import shared_lock
from avatar_bench.results.result import Result
from tests.commands.conftest import Child


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch):
    monkeypatch.setattr("avatar_bench.evaluation.result_writer.draw_figures", lambda result: {})


def evaluate(run, *words):
    quick = [] if any(word.startswith("block=") for word in words) else ["block.blind_test.resamples=100"]
    assert main(["evaluate", f"ckpt={run}", "data.workers=0", *quick, *words]) == 0


def read(log):
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def write(log, *entries):
    """Write a log of a fingerprint, a command and a checkpoint a line."""
    log.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"fingerprint": digest, "command": command, "runs": [{"checkpoint_sha256": run}]}
        for digest, command, run in entries
    ]
    log.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return log


@pytest.mark.slow
def test_each_command_counts_once_for_each_run_and_a_kept_result_for_none(run_copy, images, tmp_path, capsys):
    log = run_copy / "evaluation" / LOG_FILE
    evaluate(run_copy)
    assert not log.exists()  # its own test images are no external set
    evaluate(run_copy, "split=blind", "block=[blind_test,prior_shift]", "block.blind_test.resamples=100")
    assert capsys.readouterr().out.splitlines()[-2] == "blind: evaluated 1 time on 1 run"
    first, second = read(log)
    assert (first["set"], first["block"], second["block"]) == ("blind", "blind_test", "prior_shift")
    assert first["command"] == second["command"]
    assert first["options"]["resamples"] == 100
    result = json.loads((run_copy / "evaluation" / "blind" / "blind_test" / "metrics.json").read_text())["provenance"]
    assert first["fingerprint"] == result["data_fingerprint"]
    assert first["runs"] == [{"run": str(run_copy), "checkpoint_sha256": result["checkpoint_sha256"]}]
    evaluate(run_copy, "split=blind", "lang=ru")
    assert len(read(log)) == 2
    assert capsys.readouterr().out.splitlines()[-1] == "blind: evaluated 1 time on 1 run"
    evaluate(run_copy, "split=blind", "view=generated_or_not")  # the same images
    assert "blind: evaluated 2 times on 1 run" in capsys.readouterr().out
    data = ["data=manifest", f"data.manifest={images / 'blind.csv'}", "data.name=june"]
    evaluate(run_copy, *data)  # and under another name
    assert "june: evaluated 3 times on 1 run" in capsys.readouterr().out
    evaluate(run_copy, "block=architecture", "split=blind")  # without predictions of them
    evaluate(run_copy, "where.source=ink", "allow=[permutation]")  # a slice of its own test images
    assert len(read(log)) == 4
    assert "evaluated" not in capsys.readouterr().out


def test_a_set_that_a_block_reads_beside_its_own_is_counted_and_damaged_lines_are_ignored(run_copy, capsys):
    evaluate(run_copy, "block=calibration", "block.calibration.resamples=100")
    assert capsys.readouterr().out.splitlines()[-1] == "blind: evaluated 1 time on 1 run"
    log = write(run_copy / "evaluation" / LOG_FILE, ("f", "1", "a"))
    damaged = ["{", "[1]", '{"fingerprint": "f"}', "\x00"]
    damaged += ['{"fingerprint": "f", "command": 1, "runs": 3}', '{"set": "bl']
    with log.open("a", encoding="utf-8") as file:
        file.write("\n".join(damaged))
    evaluate(run_copy, "split=blind")
    assert count_evaluations([log, log.with_name("missing")])["f"] == SetUse(1, 1)
    assert list(count_evaluations([log]).values()) == [SetUse(1, 1), SetUse(1, 1)]


def test_a_folder_that_cannot_be_written_costs_a_note(run_copy, capsys):
    (run_copy / "evaluation" / LOG_FILE).mkdir(parents=True)
    evaluate(run_copy, "split=blind", "block=[blind_test,prior_shift]")
    output = capsys.readouterr()
    note = f"note: {run_copy / 'evaluation'}: this evaluation is not counted: Is a directory"
    assert output.err.splitlines().count(note) == 1
    assert "evaluated" not in output.out


def log(folder, command):
    result = Result("blind_test", "blind", 1, ("a", "b"))
    result.provenance = {"evaluated": {"f" * 10_000: "blind"}, "run": "run", "checkpoint_sha256": command}
    log_result(result, folder, command)


def test_two_commands_at_once_lose_no_line(tmp_path):
    def begin(command):
        def write_some():
            (tmp_path / command).touch()
            for _ in range(50):
                log(tmp_path, command)

        child = Child(["--version"], tmp_path / f"{command}.txt", write_some)
        child.until(lambda: (tmp_path / command).exists())
        return child

    with shared_lock(tmp_path / ".log.lock"):
        children = [begin(command) for command in "ab"]
        time.sleep(0.2)
        assert not (tmp_path / LOG_FILE).exists()  # both wait
    assert [child.end() for child in children] == [0, 0]
    commands = [entry["command"] for entry in read(tmp_path / LOG_FILE)]
    assert (commands.count("a"), commands.count("b")) == (50, 50)


def test_logs_of_runs_sweeps_and_ensembles_are_found_and_a_copy_adds_nothing(tmp_path):
    folders = ["evaluation", "one/evaluation", "sweep/job/evaluation", "sweep/ensembles/vote/evaluation"]
    logs = [write(tmp_path / folder / LOG_FILE, ("f", "1", folder)) for folder in folders]
    write(tmp_path / "copy" / "evaluation" / LOG_FILE, ("f", "1", folders[1]))
    all_logs = find_logs(tmp_path)
    assert set(logs) < set(all_logs)
    assert count_evaluations(all_logs) == {"f": SetUse(4, 4)}
