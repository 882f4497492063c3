"""A night's page in a real Chromium: it asks nobody for anything, sorts, filters, and fits a phone."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from pocketbench.nightly.night import Point, SeriesNight
from pocketbench.report.night_html import as_html
from tests.unit.test_night_reports import EVIL, a_night

QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking")
MORE_QUIET = ("--disable-component-update", "--disable-sync", "--no-first-run", "--disable-default-apps")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here")
    return found


def a_page() -> str:
    night = a_night(EVIL)
    one = night.series[0]
    many = [
        replace(
            one, key=str(k), title=f"model {k} {EVIL if k == 3 else ''}", points=[Point("n", float((k * 7) % 10 + 1))]
        )
        for k in range(10)
    ]
    series: list[SeriesNight] = [*night.series, *many]
    return as_html(replace(night, series=series))


def asked(page: str, script: str, folder: Path, width: int = 1280, *more: str) -> Any:
    """What a script in the page comes to, after the page's own has run."""
    told = f"<script>document.title = 'ANSWER' + JSON.stringify((() => {{ {script} }})()) + 'END';</script></body>"
    file = folder / "page.html"
    file.write_text(page.replace("</body>", told))
    command = [
        browser(),
        *QUIET,
        *MORE_QUIET,
        *more,
        f"--window-size={width},900",
        f"--user-data-dir={folder / 'profile'}",
    ]
    done = subprocess.run(
        [*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    found = re.search(r"<title>ANSWER(.*?)END</title>", done.stdout, re.DOTALL)
    assert found is not None, done.stdout[:2000] + done.stderr[-2000:]
    return json.loads(unescape(found[1]))


def test_no_request_leaves_the_page(tmp_path: Path) -> None:
    """Whatever it asked for would go through this proxy."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    seen.append(connection.recv(4096))

        threading.Thread(target=accept, daemon=True).start()
        proxy = f"--proxy-server=http://127.0.0.1:{server.getsockname()[1]}"
        count = "return performance.getEntriesByType('resource').map((e) => e.name)"
        assert asked(a_page(), count, tmp_path, 1280, proxy) == []
        assert [line for line in seen if b"google" not in line] == [], "the browser's own questions are not the page's"
        # The trap works: a page that asks is seen, even if its own policy did not stop it.
        leaky = (
            a_page()
            .replace("default-src 'none'", "default-src *")
            .replace("</header>", "<img src='http://leak.example/x.png'></header>")
        )
        asked(
            leaky.replace("img-src data:", "img-src *"), "return 1", tmp_path, 1280, proxy, "--virtual-time-budget=3000"
        )
        assert any(b"leak.example" in line for line in seen)


def test_nothing_in_a_name_runs(tmp_path: Path) -> None:
    script = "return [document.querySelectorAll('img').length, document.body.textContent.includes('<img src=x')]"
    assert asked(a_page(), script, tmp_path) == [0, True]


def test_columns_sort_by_value_and_words_filter(tmp_path: Path) -> None:
    """By keyboard as well: a heading is a button."""
    script = """
      const table = document.getElementById('all');
      const button = [...table.querySelectorAll('th button')].find((b) => b.textContent === 'tonight');
      const values = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[3].dataset.v));
      button.focus();
      const focused = document.activeElement === button;
      button.click(); const up = values(); button.click(); const down = values();
      const filter = document.getElementById('filter');
      filter.value = 'model 4'; filter.dispatchEvent(new Event('input'));
      const left = [...table.tBodies[0].rows].filter((row) => !row.hidden);
      const shown = left.map((row) => row.cells[1].textContent.trim());
      return [focused, up, down, shown, button.parentElement.getAttribute('aria-sort')];
    """
    focused, up, down, shown, order = asked(a_page(), script, tmp_path)
    assert focused and up == sorted(up) and down == sorted(up, reverse=True) and len(up) == 12
    assert shown == ["model 4"] and order == "descending"


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen(tmp_path: Path, width: int) -> None:
    """Wide tables scroll inside the page; the page itself does not."""
    script = "return [document.documentElement.scrollWidth, window.innerWidth, document.querySelectorAll('svg').length]"
    needed, has, drawn = asked(a_page(), script, tmp_path, width)
    assert needed <= has and drawn >= 12


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_are_readable(tmp_path: Path, scheme: str) -> None:
    """Every text colour against its background: 4.5 to 1 at least (WCAG 2.1, 1.4.3)."""
    script = """
      const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map((v) => { v /= 255;
        return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (!/, 0\\)|transparent/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
      let worst = 99, page = getComputedStyle(document.body).backgroundColor;
      for (const e of document.querySelectorAll('p, td, th, h1, h2, h3, a, span, b, code')) {
        const [x, y] = [light(getComputedStyle(e).color), light(behind(e))];
        worst = Math.min(worst, (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05)); }
      return [worst, page];
    """
    preferred = "--blink-settings=preferredColorScheme=" + ("1" if scheme == "light" else "0")
    worst, page = asked(a_page(), script, tmp_path, 1280, preferred)
    assert page == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
    assert worst >= 4.5


def test_a_screenshot_is_no_blank_page(tmp_path: Path) -> None:
    file, shot = tmp_path / "page.html", tmp_path / "shot.png"
    file.write_text(a_page())
    command = [browser(), *QUIET, *MORE_QUIET, "--window-size=800,600", f"--screenshot={shot}", file.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert shot.stat().st_size > 20_000, "white pages are much smaller"
