"""What is told about a cluster, and how each kind is started."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cloudpickle
import pytest

from dataengine.core.errors import DataEngineError, MissingExtraError, RecipeError
from dataengine.pipeline import cluster_kinds
from dataengine.pipeline.cluster_kinds import ClusterSettings
from dataengine.pipeline.engine import Engine
from dataengine.pipeline.task import Receipt, Task
from tests.support.dask_processes import dask_scheduler

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_options_and_a_file_tell_the_same(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('kind = "ssh"\nhosts = ["a", "b"]\nworkers = 4\n')
    told = cluster_kinds.read("ssh:a,b", None, "4")
    assert told.hosts == ["a", "b"] and told.bounds == (4, 4)
    assert cluster_kinds.read(str(file), None, None).bounds == told.bounds
    assert cluster_kinds.read(str(file), None, "2..8").bounds == (2, 8), "an option stands before the file"
    assert cluster_kinds.read(None, None, None).kind == "local"
    assert cluster_kinds.read(None, "tcp://h:1", None) == ClusterSettings(kind="scheduler", address="tcp://h:1")


@pytest.mark.parametrize(
    ("cluster", "scheduler", "workers", "message"),
    [
        ("unknown.toml", None, None, "unknown key 'host'.*did you mean 'hosts'"),
        ("slrm", None, None, "did you mean 'slurm'"),
        ("ssh", None, None, "ssh:HOST,HOST"),
        ("slurm", "tcp://h:1", None, "give one of them"),
        ("scheduler", None, None, "an address go together"),
        (None, "tcp://h:1", "4", "--nthreads 1"),
        (None, "h", None, "--scheduler: 'h' is no address of a scheduler: give tcp://HOST:PORT"),
        (None, None, "many", "give N, or MIN..MAX"),
        (None, None, "8..2", "give N, or MIN..MAX"),
        (None, None, "0", "give N, or MIN..MAX"),
        ("absent.toml", None, None, "cannot read"),
    ],
)
def test_what_is_wrong_is_one_line(
    cluster: str | None,
    scheduler: str | None,
    workers: str | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("unknown.toml").write_text('host = ["a"]')
    with pytest.raises(RecipeError, match=message) as caught:
        cluster_kinds.read(cluster, scheduler, workers)
    assert "\n" not in str(caught.value)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataengine.core.extras.installed", lambda extra: False)
    with pytest.raises(MissingExtraError, match="--extra cluster"):
        cluster_kinds.start(ClusterSettings(kind="slurm"))


def test_certificates_are_told_to_dask_for_every_role(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('kind = "scheduler"\naddress = "tls://h:1"\ntls_ca = "ca"\ntls_cert = "cert"\ntls_key = "key"\n')
    found = cluster_kinds.tls(cluster_kinds.read(str(file), None, None))
    assert found["distributed.comm.tls.ca-file"] == str(tmp_path / "ca")
    assert found["distributed.comm.tls.client.key"] == found["distributed.comm.tls.worker.key"] == str(tmp_path / "key")
    assert found["distributed.comm.require-encryption"] is True
    with pytest.raises(RecipeError, match="tls_ca, tls_cert and tls_key"):
        file.write_text('kind = "scheduler"\naddress = "tls://h:1"\ntls_ca = "ca"\n')
        cluster_kinds.read(str(file), None, None)


@pytest.mark.parametrize("kind", ["slurm", "pbs", "lsf"])
def test_jobs_of_a_batch_system_run_one_thread_with_a_nanny_and_encryption(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script that dask-jobqueue submits; no batch system is needed to write it."""
    dask_jobqueue = pytest.importorskip("dask_jobqueue")
    options: dict[str, object] = {"queue": "gpu", "walltime": "01:00", "job_extra_directives": ["--gres=gpu:1"]}
    options["scheduler_options"] = {"host": "127.0.0.1"}
    told = ClusterSettings(kind=kind, workers="2..8", options=options)
    job = getattr(dask_jobqueue, cluster_kinds.JOBQUEUE[kind])
    monkeypatch.setenv("HOME", str(tmp_path))
    with job(**cluster_kinds.jobs(told), n_workers=0) as cluster:
        script = cluster.job_script()
        assert cluster.scheduler_address.startswith("tls://")
    assert "--nthreads 1" in script and "--no-nanny" not in script and "--gres=gpu:1" in script
    assert "--tls-ca-file" in script or "TLS" in script
    assert "--no-dashboard" in script


def where(folder: Path, task: Task) -> Receipt:
    time.sleep(0.3)
    return Receipt(task.key, 1, 1, 0.3, artifact=str(os.getpid()))


def tasks(count: int) -> list[Task]:
    return [Task(f"u{n:03d}", ("clip",)) for n in range(count)]


@pytest.mark.slow
def test_a_growing_cluster_grows_to_its_greatest_number(tmp_path: Path) -> None:
    got: list[Receipt] = []
    most = 0

    def receive(receipt: Receipt) -> None:
        nonlocal most
        got.append(receipt)
        assert dispatcher.cluster is not None
        most = max(most, len(dispatcher.cluster.workers()))

    with Engine(cluster=ClusterSettings(workers="1..3")).open() as dispatcher:
        dispatcher.run(where, (tmp_path,), tasks(150), receive)
    assert most == 3 and len({receipt.artifact for receipt in got}) >= 3
    assert sorted(receipt.key for receipt in got) == [task.key for task in tasks(150)]


def certificates(folder: Path) -> dict[str, str]:
    """An authority of our own that signs itself, as openssl makes it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=dataengine"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True, timeout=60)
    return {"tls_ca": str(cert), "tls_cert": str(cert), "tls_key": str(key)}


@pytest.mark.slow
def test_a_scheduler_with_tls_is_joined_with_certificates_and_not_without(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    options = ["--tls-ca-file", files["tls_ca"], "--tls-cert", files["tls_cert"], "--tls-key", files["tls_key"]]
    with dask_scheduler(tmp_path / "dask", options=["--protocol", "tls", *options]) as started:
        assert started.address.startswith("tls://")
        started.worker(*options)
        got: list[Receipt] = []
        told = ClusterSettings(kind="scheduler", address=started.address, **files)  # type: ignore[arg-type]
        with Engine(cluster=told).open() as dispatcher:
            dispatcher.run(where, (tmp_path,), tasks(2), got.append)
        assert len(got) == 2
        with (
            pytest.raises(DataEngineError, match="wants certificates"),
            Engine(scheduler=started.address).open(),
        ):
            pass


@contextmanager
def ssh_server(folder: Path) -> Iterator[dict[str, object]]:
    """A real sshd on loopback that lets this user in with a key of its own; options of asyncssh to connect to it."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None or os.geteuid() != 0:
        pytest.skip("needs sshd and root")
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True, timeout=60
        )
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized",
        "PidFile": folder / "pid",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
        "PasswordAuthentication": "no",
    }
    (folder / "config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield {"port": port, "username": "root", "client_keys": [str(folder / "user")], "known_hosts": None}
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


@pytest.mark.slow
def test_workers_over_ssh_run_units(tmp_path: Path) -> None:
    pytest.importorskip("asyncssh")
    with ssh_server(tmp_path) as connect:
        options = {"connect_options": connect, "remote_python": sys.executable}
        told = ClusterSettings(kind="ssh", hosts=["127.0.0.1"], workers=2, options=options)
        got: list[Receipt] = []
        with Engine(cluster=told).open() as dispatcher:
            dispatcher.run(where, (tmp_path,), tasks(12), got.append)
    assert len(got) == 12 and len({receipt.artifact for receipt in got}) == 2


DRIVER = """
import json, os, sys, time
from dataengine.pipeline import watches
from dataengine.pipeline.cluster_kinds import ClusterSettings
from dataengine.pipeline.engine import Engine

def main():
    watches.ALONE = 3.0
    told = ClusterSettings(kind="ssh", hosts=["127.0.0.1"], workers=1, options=json.loads(sys.argv[1]))
    with Engine(cluster=told).open() as dispatcher:
        client = dispatcher.cluster.client
        pids = [client.run_on_scheduler(os.getpid), *client.run(os.getpid).values()]
        print(json.dumps(pids), flush=True)
        time.sleep(600)

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_cluster_over_ssh_ends_with_a_driver_that_was_killed(tmp_path: Path) -> None:
    pytest.importorskip("asyncssh")
    with ssh_server(tmp_path) as connect:
        options = json.dumps({"connect_options": connect, "remote_python": sys.executable})
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, options], stdout=subprocess.PIPE, text=True)
        assert driver.stdout is not None
        processes = json.loads(driver.stdout.readline())
        assert len(processes) == 2 and all(Path(f"/proc/{pid}").exists() for pid in processes)
        driver.kill()
        driver.communicate()
        until = time.monotonic() + 90
        while any(Path(f"/proc/{pid}").exists() for pid in processes) and time.monotonic() < until:
            time.sleep(0.5)
        assert not any(Path(f"/proc/{pid}").exists() for pid in processes)
