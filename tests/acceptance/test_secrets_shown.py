"""A secret gets out of no process: not into stderr past dwhctl, a log, the sessions table or a command line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.support.projects import DAY, Sandbox

SECRET = "s3cr3t-W<rd/Zq9"
MISBEHAVES = f"""
import gc, logging, sys, threading, warnings
import click
from dwhctl.cli import main
from dwhctl.core.secrets import Secret

SECRET = {SECRET!r}

class Left:
    def __del__(self):
        raise ValueError(f"left {{SECRET}}")

@click.command()
def bad():
    Secret(SECRET)
    warnings.warn(f"warned of {{SECRET}}")
    logging.getLogger("library").warning("said %s", SECRET.upper())
    logging.getLogger("library").error("failed", exc_info=ValueError(SECRET))
    thread = threading.Thread(target=lambda: 1 / 0 if not SECRET else int(SECRET), name="helper")
    thread.start()
    thread.join()
    Left()
    gc.collect()
    try:
        raise ValueError("first", SECRET.encode())
    except ValueError as error:
        raise RuntimeError("second", {{"password": SECRET}}) from error

main.dwhctl = bad
sys.argv = ["dwhctl"]
main.main()
"""


def test_what_python_and_libraries_write_is_masked() -> None:
    done = subprocess.run([sys.executable, "-c", MISBEHAVES], capture_output=True, text=True, check=False)
    for said in ("warned of", "said", "failed", "Exception in thread helper", "left", "second"):
        assert said in done.stderr
    assert done.returncode == 1
    assert done.stderr.count("********") >= 6
    assert "s3cr3t" not in done.stderr.lower()


def test_a_failing_load_shows_its_secret_nowhere(tmp_path: Path) -> None:
    sandbox = Sandbox(
        tmp_path / "project",
        {"server_0": ["abakan", "achinsk"]},
        load_keys="retries = 0",
        extract="SELECT id, customer, amount, start_time, error('{{ var.value.api_token|upper }}') FROM orders\n"
        "WHERE start_time >= :start AND start_time < :end AND '{{ var.value.chat }}' <> '{{ var.value.file }}'\n",
    )
    sandbox.write().fill()
    text = (sandbox.root / "config" / "dwhctl.toml").read_text()
    (sandbox.root / "key").write_text(SECRET.lower())
    sandbox.put("config/dwhctl.toml", f'{text}\n[variables]\nfile = {{ file = "./key" }}\n')
    env = {"DWHCTL_VAR_API_TOKEN": SECRET, "DWHCTL_VAR_CHAT": "-1"}
    process = sandbox.start("load", "--date", str(DAY), "--debug", env=env, plain=True)
    lines: set[str] = set()
    while process.poll() is None:
        for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
            try:
                lines.add(" ".join(each.cmdline()))
            except psutil.Error:
                continue
        time.sleep(0.02)
    out, err = process.communicate()
    assert process.returncode == 1, err
    assert len(lines) > 1
    kept = [each.read_bytes() for each in (sandbox.root / "state").rglob("*") if each.is_file()]
    said = "".join([out, err, *lines, *(each.decode("utf-8", "replace") for each in kept)])
    assert "********" in said
    assert "s3cr3t" not in said.lower()
