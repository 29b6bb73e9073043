"""Makes the pictures of the reports: `python docs/pictures.py [FOLDER]` (docs/pictures, with dwhctl[test] installed).

A project of 12 shards lives through two weeks of an engineer's life in July 2020, with real runs under a clock that
time-machine moves: a server is down for two days, a table is renamed, cron sleeps for a day, a run dies. Then
`dwhctl report ...` runs in a pseudo-terminal of 80 and of 200 columns, and what it writes becomes an SVG. The table of
docs/performance.md that says where the CPU of a million rows goes is drawn as bars.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import time_machine
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from dwhctl.cli.common.ending import run
from dwhctl.cli.common.options import Settings
from dwhctl.cli.main import dwhctl
from dwhctl.cli.new_project.demo import make_project
from dwhctl.cli.new_project.demo_data import DAYS
from dwhctl.cli.report.group import COMMANDS
from dwhctl.load.run import run_load
from dwhctl.project.read import read_project
from dwhctl.runtime.events import Event
from dwhctl.runtime.plan import LoadRequest
from dwhctl.sessions import NewSession, State, open_store

ZONE = ZoneInfo("Europe/Moscow")
WIDE = 200
TODAY = date(2020, 7, 14)
FIRST = TODAY - timedelta(days=13)
SERVERS = {
    "server_0": ("abakan", "achinsk", "barnaul", "bratsk"),
    "server_1": ("chita", "irkutsk", "kansk", "kazan"),
    "server_2": ("omsk", "perm", "tomsk", "ufa"),
}
#: rich's own format, whose fonts a browser would fetch from another host.
SVG = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace("Fira Code, ", "")
_DARK = ("#181a1f", "#dc5050", "#5ab46e", "#dcb450", "#5a8cdc", "#b46ec8", "#5ab9c8", "#dee1e6")
_BRIGHT = ("#6e737d", "#ff6e6e", "#78d28c", "#f0cd6e", "#78aafa", "#d28ce6", "#78d7e6", "#ffffff")


def theme() -> TerminalTheme:
    """A dark terminal."""
    dark, bright = ([tuple(bytes.fromhex(one[1:])) for one in colours] for colours in (_DARK, _BRIGHT))
    return TerminalTheme(dark[0], dark[-1], dark, bright)


def main() -> None:
    """Live through two weeks and write the pictures."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures")
    folder.mkdir(parents=True, exist_ok=True)
    draw_cpu_of_rows(folder)
    with tempfile.TemporaryDirectory() as root:
        live(Path(root) / "weeks")
        busy = Path(root) / "busy"
        one_busy_run(busy)
        with at(TODAY, 15):
            for name in ("grid", "gaps", "failures"):
                if name in COMMANDS:
                    draw(folder, name, ["report", name], Path(root) / "weeks")
            draw(folder, "grid_folded", ["report", "grid", "--fold"], Path(root) / "weeks", (80,))
        draw(folder, "timeline", ["report", "timeline", "last"], busy)


@contextmanager
def at(day: date, hour: int, minute: int = 0) -> Iterator[None]:
    """Make it that moment in Moscow."""
    moment = datetime(day.year, day.month, day.day, hour, minute, tzinfo=ZONE)
    with time_machine.travel(moment, tick=True):
        yield


def live(root: Path) -> None:
    """Two weeks, day by day."""
    with at(TODAY, 14, 40):
        make_project(root, Settings(quiet=True), DAYS)
    change(root, '"ufa"]', f'{{ database = "ufa", from = "{FIRST + timedelta(days=4)}" }}]')
    execute(root, "kansk", f"DELETE FROM orders WHERE start_time::DATE = DATE '{FIRST + timedelta(days=6)}'")
    for number in range(13):
        day = FIRST + timedelta(days=number)
        if number == 10:
            continue  # cron slept
        if number == 11:
            execute(root, "tomsk", "ALTER TABLE orders RENAME TO orders_new")
        with at(day, 12):
            if number == 4:
                load(root, day, "omsk", "perm", "tomsk", "ufa")
        with at(day + timedelta(days=1), 6, 30), down(root, "server_1", number in (7, 8)):
            load(root, day, *(SERVERS["server_0"] + SERVERS["server_1"] if number == 4 else ()))
    with at(TODAY, 8):
        load(root, FIRST + timedelta(days=7), "chita", "irkutsk")
        load(root, FIRST + timedelta(days=10), *SERVERS["server_0"])
        die(root, FIRST + timedelta(days=2), "bratsk", "kazan")
    with at(TODAY, 14, 30):
        load(root, TODAY, *SERVERS["server_0"], *SERVERS["server_1"], "tomsk")
    with at(TODAY, 14, 59):
        die(root, TODAY, "perm")


def load(root: Path, day: date, *shards: str) -> None:
    """Load a day of these shards, or of all."""
    run_load(read_project(root), LoadRequest((day,), shards=shards, retries=0, inline=True), print_nothing)


def print_nothing(event: Event) -> None:
    """Listen to a run and say nothing."""


def die(root: Path, day: date, *shards: str) -> None:
    """Leave behind what a run leaves that is killed: sessions that are running until the next run reaps them."""
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    with open_store(read_project(root).sessions) as store:
        store.open(
            [
                NewSession(run_id, "orders", shard, day, 1, uuid.uuid4().hex, datetime.now(UTC))
                for shard in shards
            ]
        )


@contextmanager
def down(root: Path, server: str, really: bool) -> Iterator[None]:
    """A server that is not there."""
    place = root / "servers" / server
    if really:
        place.rename(place.with_suffix(".down"))
    try:
        yield
    finally:
        if really:
            place.with_suffix(".down").rename(place)


def one_busy_run(root: Path) -> None:
    """A run with real workers over three days, in which a city is busy for a while and another is broken."""
    make_project(root, Settings(quiet=True), DAYS)
    change(root, "start_date", 'retries = 3\nretry_delay = "1s"\nstart_date', "config/loads/orders.toml")
    change(root, 'path = "servers/server_1"', 'path = "servers/server_1"\nlock_wait = "1s"')
    execute(root, "kazan", "ALTER TABLE orders RENAME TO orders_new")
    for cities in SERVERS.values():
        for city in cities:
            if city != "kazan":
                much = (
                    "SELECT o.* REPLACE (id + 1000000000 * n AS id) FROM orders AS o, range(1, 500) AS r (n)"
                )
                execute(root, city, f"INSERT INTO orders {much}")
    with duckdb.connect(str(file_of(root, "irkutsk"))):  # nobody else can open it meanwhile
        words = ("load", "--date", "yesterday", "--lookback", "2", "--project", str(root))
        process = subprocess.Popen([sys.executable, "-m", "dwhctl", *words])
        wait_for_a_retry(root)
    process.wait()


def wait_for_a_retry(root: Path) -> None:
    """Wait until a slice has found its database in use."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with open_store(read_project(root).sessions) as store:
            if store.is_ready() and any(one.state is State.UP_FOR_RETRY for one in store.recent(50)):
                return
        time.sleep(0.2)


def change(root: Path, before: str, after: str, name: str = "config/dwhctl.toml") -> None:
    """Edit a file of the project."""
    path = root / name
    text = path.read_text()
    assert text.count(before) == 1, before
    path.write_text(text.replace(before, after))


def file_of(root: Path, city: str) -> Path:
    """Give a city's database."""
    server = next(server for server, cities in SERVERS.items() if city in cities)
    return root / "servers" / server / f"{city}.duckdb"


def execute(root: Path, city: str, sql: str) -> None:
    """Do something to a city's database."""
    with duckdb.connect(str(file_of(root, city))) as db:
        db.execute(sql)


def draw(
    folder: Path, name: str, arguments: Sequence[str], root: Path, widths: Sequence[int] = (80, WIDE)
) -> None:
    """Write what a command shows on a terminal of these widths."""
    for width in widths:
        text = on_a_terminal([*arguments, "--project", str(root)], width, 50)
        text = text.replace(f" --project {root}", "").replace(f" on {socket.gethostname()}, ", " on etl-1, ")
        stem = name if width < WIDE else f"{name}_wide"
        command = Text("$ dwhctl " + " ".join(arguments), style="bold")
        write_svg(folder / f"{stem}.svg", name, width, [command, Text.from_ansi(text)])


def write_svg(path: Path, name: str, width: int, texts: Sequence[Text]) -> None:
    """Write lines on a terminal of this width as a picture."""
    console = Console(record=True, width=width, file=io.StringIO(), color_system="truecolor")
    for text in texts:
        console.print(text, soft_wrap=False)
    path.write_text(console.export_svg(title="", theme=theme(), code_format=SVG, unique_id=name))


def draw_cpu_of_rows(folder: Path) -> None:
    """Draw the table under `Where a million rows' CPU goes` as bars, one for each stage and driver."""
    page = Path(__file__).with_name("performance.md").read_text()
    lines = (
        page.partition("Where a million rows' CPU goes")[2]
        .partition("| |")[2]
        .partition("\n\n")[0]
        .splitlines()
    )
    drivers, _, *stages = ([cell.strip() for cell in line.split("|")] for line in lines)
    rows = [(stage, [float(cell.partition(" ")[0]) for cell in cells]) for _, stage, *cells, _ in stages]
    scale = 36 / max(max(seconds) for _, seconds in rows)
    texts = []
    for place, driver in enumerate(drivers[:-1]):
        texts.append(Text(f"{driver}: CPU s of a million rows", style="bold"))
        for (stage, seconds), colour in zip(rows, ("blue", "yellow", "green", "magenta"), strict=True):
            bar = "\u2588" * max(1, round(seconds[place] * scale))
            what = stage.partition(", with")[0]
            texts.append(Text.assemble(f"  {what:24} ", (bar, colour), f" {seconds[place]:.2f}"))
    write_svg(folder / "cpu_of_rows.svg", "cpu_of_rows", 80, texts)


def on_a_terminal(arguments: Sequence[str], width: int, height: int) -> str:
    """Run dwhctl in a child of this process, so under the same clock, on a terminal of this size."""
    pid, terminal = pty.fork()
    if not pid:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        # The parent's streams may have been made for files.
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os._exit(run(dwhctl, list(arguments)))
    written = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux's way to say that the other side is closed
            break
        written += piece
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise SystemExit(f"dwhctl {' '.join(arguments)}: exit code {code}: {written.decode()}")
    return written.decode().replace("\r\n", "\n")


if __name__ == "__main__":
    main()
