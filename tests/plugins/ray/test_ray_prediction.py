"""Tests of predict engine=ray: the rows of the local command, through kills, on local and remote files."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.files.remote import open_remote
from avatar_bench.plugins.ray.ray_prediction import _QUIET

pytest.importorskip("ray")
LONGEST = 240  # seconds, for a machine that has much else to do
REPEATS = 4  # of each file, so that some are still read when the first rows are written
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    """498 links to images, a file that is none, and one that is empty."""
    folder = tmp_path_factory.mktemp("many")
    files = sorted((images / "all").rglob("*.*"))
    for number in range(498):
        os.link(files[number % len(files)], folder / f"{number:03}{files[number % len(files)].suffix}")
    (folder / "notes, 1.txt").write_text("no image")
    (folder / "empty.png").touch()
    return folder


@pytest.fixture(scope="module")
def words(tiny_run, tmp_path_factory):
    """Options with columns of evidence, stability, decisions and a view."""
    costs = tmp_path_factory.mktemp("costs") / "costs.yaml"
    costs.write_text("{generated: {not_generated: 3}, not_generated: {generated: 1}, abstain: .2}")
    columns = ["evidence=true", "stability=true", f"costs={costs}", "view=generated_or_not"]
    return ["predict", f"ckpt={tiny_run}", "precision=32", "runtime=torch", *columns]


@pytest.fixture(scope="module")
def expected(words, folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("local") / "rows.parquet"
    assert main([*words, f"input={folder}", f"output={output}", "workers=0"]) == 3
    return pd.read_parquet(output)


def compare(rows, expected):
    """Assert that two tables have the same rows, in any order, and numbers to 1e-6."""
    rows, expected = (table.sort_values("path", ignore_index=True) for table in (rows, expected))
    pd.testing.assert_frame_equal(rows, expected, rtol=0, atol=1e-6)


@pytest.fixture
def begin(tmp_path):
    """Start a command in a session of its own, with what it says in tmp_path/said."""
    begun = []

    def run(words):
        with (tmp_path / "said").open("wb") as said:
            command = [sys.executable, "-m", "avatar_bench", *words]
            begun.append(subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True))
        return begun[-1]

    yield run
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait(condition):
    for _ in range(LONGEST * 10):
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"nothing after {LONGEST} s")


def processes(name, session):
    """Return the processes of a session that Ray names so."""
    collected = []
    for file in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(file.name)) == session and name in (file / "cmdline").read_text(errors="replace"):
                collected.append(int(file.name))
        except OSError:  # ended meanwhile
            continue
    return collected


def test_a_killed_actor_is_replaced_and_a_killed_command_is_gone_on_with_to_the_rows_of_the_local_one(
    words, folder, expected, begin, tmp_path, capfd
):
    output, names = tmp_path / "rows.parquet", tmp_path / "list.txt"
    names.write_text("".join(f"{file}\n" for file in sorted(folder.iterdir()) for _ in range(REPEATS)))
    command = [*words, f"input=@{names}", f"output={output}", "engine=ray", "engine.actors=2"]
    process = begin([*command, "batch_size=8"])
    actor = wait(lambda: processes("_Actor", process.pid))[0]
    os.kill(actor, signal.SIGKILL)
    wait(lambda: output.is_dir() and len(list(output.glob("*.parquet"))) >= 2)
    wait(lambda: processes("_read_images", process.pid))  # rows are written while images are still read
    process.kill()
    process.wait()
    wait(lambda: not processes("ray::", process.pid))
    before = len(pd.read_parquet([file for file in output.iterdir() if file.read_bytes()[-4:] == b"PAR1"]))
    assert 0 < before < REPEATS * len(expected)
    capfd.readouterr()
    assert main(command) == 5
    assert "has predictions already" in capfd.readouterr().err
    next(output.iterdir()).write_bytes(b"PAR1 cut short")
    assert main([*command, "batch_size=64", "update=true"]) == 3
    said = r"\d+ predictions, \d+ files that could not be read, \d+ rows kept from before\n"
    assert re.fullmatch(re.escape(f"{output}: ") + said, capfd.readouterr().out)
    compare(pd.read_parquet(output), pd.concat([expected] * REPEATS))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An S3 server with a bucket named bucket, and a function that stops it, or starts it again."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    for name, value in {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    import boto3

    boto3.client("s3").create_bucket(Bucket="bucket")
    servers = [server]

    def toggle():
        if servers:
            servers.pop().stop()
        else:
            servers.append(ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False))
            servers[0].start()

    yield toggle
    if servers:
        toggle()


@pytest.fixture
def cluster(server, monkeypatch):
    """A Ray cluster of two nodes on this machine, with a core each, that know the S3 server."""
    for name, value in _QUIET.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    yield cluster
    cluster.shutdown()


def test_remote_files_give_the_same_rows_though_a_machine_is_lost_and_their_server_stops_for_a_while(
    server, cluster, words, folder, expected, begin, tmp_path
):
    address = "s3://bucket/my images"
    system, root = open_remote(address)
    for number, file in enumerate(sorted(folder.iterdir())):
        with system.open_output_stream(f"{root}/{number % 3}/{file.name}") as stream:
            stream.write(file.read_bytes())
    output = "s3://bucket/out/rows.parquet"
    command = [*words, f"input={address}", f"output={output}", "engine=ray", "engine.actors=2"]
    process = begin([*command, "batch_size=8", f"engine.address={cluster.address}"])
    written, into = open_remote(output)
    wait(lambda: written.get_file_info(into).type.name == "Directory")
    cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)
    server()
    time.sleep(5)
    server()
    assert process.wait(LONGEST) == 3, (tmp_path / "said").read_text()
    rows = pd.read_parquet(into, filesystem=written)
    assert rows["path"].str.startswith(f"{address}/").all()
    rows["path"] = [str(folder / Path(path).name) for path in rows["path"]]
    compare(rows, expected)


def test_the_local_command_needs_no_ray(words, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # whatever imports it fails
    assert main([*words, f"input={next(folder.glob('001*'))}", f"output={tmp_path / 'one.csv'}", "workers=0"]) == 0
