"""The page in a real browser, opened from its file without a network.

It needs playwright and axe-playwright-python, and Debian's chromium (or DWHCTL_CHROMIUM, the path of one); without
them it is skipped: `pip install playwright axe-playwright-python`, `apt-get install chromium`,
`pytest -m long tests/acceptance/test_page_browser.py`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from dwhctl.page.data import read_page
from dwhctl.page.render import render
from dwhctl.sessions import State
from tests.support import pages
from tests.support.pages import NOW

pytestmark = [
    pytest.mark.long,
    # Of playwright's own event loop.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
#: What happened, and on which days runs started: all, none, or none of the last three.
CASES: dict[str, tuple[pages.Outcome, list[date]]] = {
    "all_well": (pages.all_well, pages.DAYS),
    "server_down": (pages.server_down, pages.DAYS),
    "outage": (pages.outage, pages.DAYS),
    "first_day": (pages.all_well, []),
    "dead_cron": (pages.all_well, pages.DAYS[:-3]),
}
Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = os.environ.get("DWHCTL_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, (outcome, days) in CASES.items():
        root = tmp_path_factory.mktemp(name) / "flights"
        root.mkdir()
        project = pages.make(root).project()
        if days:
            pages.fill(project, outcome, days)
            pages.write_logs(project)
            pages.verified(project, is_equal=name != "server_down")
        found[name] = root / "page.html"
        found[name].write_text(render(read_page(project, NOW)))
    return found


@contextmanager
def opened(
    browser: Any, file: Path, address: str = "", after: timedelta = timedelta(0), **options: Any
) -> Iterator[Any]:
    """Open the page in a context of its own; fail on any message in the console and on any request."""
    context = browser.new_context(
        viewport={"width": options.pop("width", 1280), "height": 900}, offline=True, **options
    )
    try:
        page = context.new_page()
        told: list[str] = []
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: told.append(request.url))
        if options.get("java_script_enabled", True):
            page.clock.set_fixed_time(NOW + after)
        page.goto(f"{file.as_uri()}{address}")
        yield page
        assert [line for line in told if not line.startswith((file.as_uri(), "data:image/svg+xml"))] == []
    finally:
        context.close()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1600])
def test_it_fits_and_axe_finds_nothing(
    browser: Any, files: dict[str, Path], case: str, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    with opened(browser, files[case], width=width, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true })")
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


#: The pictures of docs/page.md: the case, width and height; a cell is opened in one of them.
PICTURES = {
    "page": ("server_down", 1_000, 1_250),
    "page_phone": ("server_down", 360, 720),
    "page_cell_phone": ("server_down", 360, 720),
    **{f"page_{case}_phone": (case, 360, 720) for case in CASES if case != "server_down"},
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(browser: Any, files: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = os.environ.get("DWHCTL_PICTURES")
    if folder is None:
        pytest.skip("makes the pictures of docs/page.md: DWHCTL_PICTURES=docs/pictures")
    case, width, height = PICTURES[name]
    file, shown = tmp_path / "page.html", files[case]
    file.write_text(shown.read_text().replace(str(shown.parent), "/srv/flights"))
    with opened(browser, file, width=width) as page:
        page.set_viewport_size({"width": width, "height": height})
        if "cell" in name:
            page.locator(".grid td.b").first.click()
        page.screenshot(path=f"{folder}/{name}.png")


def test_without_script_everything_can_be_read(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["server_down"], java_script_enabled=False, width=360) as page:
        text = page.inner_text("body")
        assert "3 shards fail, since 2020-07-11." in text
        assert "connection refused" in text
        assert "dwhctl backfill orders -s 2020-07-11" in text
        assert "too old from 2020-07-14" in text
        assert not page.locator("#filter").is_visible()
        assert not page.locator(".copy").first.is_visible()
        page.locator(".grid a").first.click()
        assert page.url.partition("#")[2].startswith("fail-")
        page.locator("summary", has_text="without gaps").click()
        assert page.locator("th", has_text="city_149").is_visible()


def test_one_tap_copies_a_command_that_runs(browser: Any, files: dict[str, Path]) -> None:
    file = files["server_down"]
    with opened(browser, file, width=360, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.locator(
            "#fail-" + page.locator("article").first.get_attribute("id").partition("-")[2]
        ).wait_for()
        page.locator(".copy").first.click()
        page.locator(".copy", has_text="Copied").wait_for()
        command = page.evaluate("navigator.clipboard.readText()")
    words = shlex.split(command)
    assert words[:3] == ["dwhctl", "backfill", "orders"]
    done = subprocess.run(
        [sys.executable, "-m", *words, "--dry-run"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "would load 9 slices" in done.stdout


def test_a_cell_opens_its_session_by_keyboard_alone(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["server_down"]) as page:
        page.locator(".grid td[tabindex='0']").first.focus()
        for _ in range(12):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        dialog = page.locator("dialog")
        assert dialog.is_visible()
        text = dialog.inner_text()
        assert "orders · city_001 · 2020-07-13" in text
        assert "F failed" in text
        assert "connection refused" in text
        commands = dialog.locator("code").all_inner_texts()
        assert commands[0].startswith("dwhctl load orders --date 2020-07-13 --shard city_001 --project ")
        assert commands[1].startswith("dwhctl render orders --date 2020-07-13 --shard city_001 ")
        assert commands[2].startswith("dwhctl report log 20200714T030000-0a1b2c3d --session ")
        assert "no route to host" in dialog.locator("#cell-log pre").inner_text()
        assert not dialog.locator("#cell-sql pre").is_visible()
        dialog.locator("#cell-sql summary").press("Enter")
        sql = dialog.locator("#cell-sql pre").inner_text()
        assert "-- :start = 2020-07-13 00:00:00" in sql
        assert "start_time >= :start" in sql
        page.keyboard.press("Escape")
        assert not dialog.is_visible()
        page.keyboard.press("ArrowUp")
        assert (
            page.evaluate("document.activeElement.getAttribute('aria-label')")
            == "city_000 2020-07-13: failed"
        )


def test_everything_is_reached_with_tab(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["server_down"]) as page:
        names = []
        for _ in range(60):
            page.keyboard.press("Tab")
            names.append(
                page.evaluate("document.activeElement.tagName + ' ' + document.activeElement.className")
            )
            if names[-1].startswith("BODY"):
                break
        assert names[0] == "A skip"
        assert sum(name == "BUTTON copy" for name in names) == page.locator(".copy:visible").count()
        assert sum(name.startswith("TD") for name in names) == 1
        assert names[-1].startswith("BODY")


def test_the_address_keeps_the_filter(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["server_down"]) as page:
        page.locator("[name=shard]").fill("CITY_00*")
        # The page knows it at once; `page.url` hears of it later.
        assert page.evaluate("location.hash") == "#shard=CITY_00*"
        assert page.locator(".grid tbody tr:visible").count() == 10
        page.locator("[name=state]").select_option("F")
        assert page.locator(".grid tbody tr:visible").count() == 3
        address = page.evaluate("location.hash")
    with opened(browser, files["server_down"], address=address) as page:
        assert page.locator("[name=shard]").input_value() == "CITY_00*"
        assert page.locator(".grid tbody tr:visible").count() == 3
        page.locator("[type=reset]").click()
        page.wait_for_function("location.hash === ''")
        assert page.locator("article:visible").count() == page.locator("article").count()
    with opened(browser, files["server_down"], address="#shard=%zz&state=(&load=%3Cb%3E") as page:
        assert page.locator("#filter").is_visible()


def test_an_old_page_says_so_by_the_clock_of_the_reader(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["all_well"], after=timedelta(minutes=9)) as page:
        assert "9 minutes ago" in page.inner_text("header")
        assert not page.locator("#old").is_visible()
    with opened(browser, files["all_well"], after=timedelta(hours=5)) as page:
        assert "This page is 5 hours old" in page.locator("#old").inner_text()
        assert page.locator("#old").is_visible()


def test_hostile_texts_run_nothing(browser: Any, tmp_path: Path) -> None:
    project = pages.make(tmp_path, shards=6, servers=2).project()
    text = "</script><script>document.title = 'run'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>\u202e"
    pages.fill(project, lambda number, day: (State.FAILED, text))
    file = tmp_path / "page.html"
    file.write_text(render(read_page(project, NOW)))
    with opened(browser, file) as page:
        assert page.title().startswith("FAILING")
        assert page.locator("img").count() == 0
        page.locator(".grid td.b").first.click()
        assert "<script>document.title" in page.locator("dialog .why").inner_text()
        assert page.title().startswith("FAILING")
