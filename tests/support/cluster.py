"""A Dask cluster of processes on loopback, with TLS: a scheduler, and workers with a nanny each."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import trustme

#: One process for the scheduler and the nannies: each would take a second of imports.
_ALL_IN_ONE = """
import asyncio, json, sys
from distributed import Nanny, Scheduler, Security

async def main(port, workers, folder, files):
    keys = {f"tls_{role}_{name}": files[name] for role in ("scheduler", "worker", "client") for name in ("cert", "key")}
    common = {"host": "127.0.0.1", "protocol": "tls", "dashboard": False}
    common["security"] = Security(require_encryption=True, tls_ca_file=files["ca"], **keys)
    async with Scheduler(port=port, dashboard_address="127.0.0.1:0", **common) as scheduler:
        keys = {"nthreads": 1, "local_directory": folder, "memory_limit": 0}
        await asyncio.gather(*(Nanny(scheduler.address, name=number, **keys, **common) for number in range(workers)))
        print("ready", flush=True)
        await scheduler.finished()

if __name__ == "__main__":
    asyncio.run(main(*json.loads(sys.argv[1])))
"""


@dataclass
class Cluster:
    """A running cluster, and how a project reaches it."""

    root: Path
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    @property
    def files(self) -> dict[str, str]:
        return {name: str(self.root / f"{name}.pem") for name in ("ca", "cert", "key")}

    @property
    def toml(self) -> str:
        """The table of the configuration."""
        files = "".join(f'{name} = "{path}"\n' for name, path in self.files.items())
        return f'\n[executor]\ntype = "dask"\nscheduler = "{self.address}"\nwait = "20s"\n{files}'

    def make_certificates(self) -> None:
        """Make an authority, and a certificate for all parts of the cluster."""
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(self.files["ca"])
        certificate.private_key_pem.write_to_path(self.files["key"])
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(self.files["cert"], append=number > 0)

    def start(self, workers: int) -> None:
        """Start scheduler and workers in one go, and wait until they are there."""
        script = self.root / "dask_cluster.py"
        script.write_text(_ALL_IN_ONE)
        keys = [self.port, workers, str(self.root), self.files]
        # Its workers are forked from a process that has imported what they need: a spawned one imports for seconds.
        forked = {"DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "forkserver"}
        process = self._spawn([sys.executable, str(script), json.dumps(keys)], forked, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", (self.root / "dask.log").read_text()

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        """Start only a scheduler, as docs/cluster.md says."""
        options = ["--protocol", "tls", "--port", str(self.port), "--host", "127.0.0.1"]
        options += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        return self._spawn([sys.executable, "-m", "dask", "scheduler", *options])

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker with a nanny of its own, as docs/cluster.md says."""
        options = [
            "--protocol",
            "tls",
            "--nthreads",
            "1",
            "--nworkers",
            "1",
            "--no-dashboard",
            "--death-timeout",
            "60",
        ]
        options += ["--host", "127.0.0.1", "--local-directory", str(self.root)]
        return self._spawn([sys.executable, "-m", "dask", "worker", self.address, *options])

    def _spawn(
        self, command: list[str], more: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        tls = "DASK_DISTRIBUTED__COMM__TLS__"
        parts = [(part, name) for part in ("SCHEDULER", "WORKER") for name in ("CERT", "KEY")]
        env = {
            **os.environ,
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
            "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
            f"{tls}CA_FILE": self.files["ca"],
            **(more or {}),
            **{f"{tls}{part}__{name}": self.files[name.lower()] for part, name in parts},
        }
        with (self.root / "dask.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True, **options
            )
        self.processes.append(process)
        return process

    def log(self) -> str:
        """What scheduler, nannies and workers wrote."""
        return (self.root / "dask.log").read_text()

    def workers(self) -> list[psutil.Process]:
        """The worker processes: those that the nannies spawned."""
        found = []
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        if _is_worker(child):
                            found.append(child)
        return found

    def worker_of(self, port: int) -> psutil.Process:
        """The worker that is connected to a server of the test."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            for worker in self.workers():
                with suppress(psutil.NoSuchProcess):
                    if any(link.raddr and link.raddr.port == port for link in worker.net_connections("tcp")):
                        return worker
            time.sleep(0.05)
        raise AssertionError(f"no worker is connected to {port}")

    def stop(self) -> None:
        """Kill all of it."""
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self.processes.clear()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert isinstance(port, int)
    return port


def _is_worker(process: psutil.Process) -> bool:
    """Whether a nanny started it: by spawn, or by a fork of multiprocessing's server."""
    command, parent = " ".join(process.cmdline()), process.parent()
    forked = parent is not None and "forkserver" in " ".join(parent.cmdline())
    return "spawn_main" in command or ("forkserver" in command and forked)


@contextmanager
def a_cluster(
    root: Path,
    workers: int = 3,
) -> Iterator[Cluster]:
    """A cluster for a block; without workers nothing is started."""
    cluster = Cluster(root, _free_port())
    cluster.make_certificates()
    try:
        if workers:
            cluster.start(workers)
        yield cluster
    finally:
        cluster.stop()
