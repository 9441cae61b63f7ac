"""Chromium as a judge of pages: contrast, names, headings, the keyboard, sideways scrolling, print.

CHROMIUM names the browser, else it is looked for on PATH. The checks themselves are in page_checks.js.
"""

import functools
import html
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)

NEEDS_BROWSER = [
    pytest.mark.slow("starts a browser"),
    pytest.mark.skipif(
        BROWSER is None, reason=f"no browser: CHROMIUM is not set, none of {', '.join(NAMES)} is on PATH"
    ),
]
"""Marks of the tests that start one."""

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync", "--disable-default-apps", "--window-size=1400,1000"),
    *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000", "--dump-dom"),
)

CHECKS = Path(__file__).with_name("page_checks.js")

INNER = """<script>{checks}
addEventListener("load", () => {{
  for (const box of document.querySelectorAll("details")) box.open = true;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  parent.postMessage(JSON.stringify({{ found: {function}(), dark, inner: innerWidth }}), "*");
}});
</script></body>"""

OUTER = """<!doctype html><iframe src="inner.html" style="width: {width}px; height: 900px; border: 0;
color-scheme: {scheme}"></iframe>
<script>addEventListener("message", (event) => {{ document.body.dataset.said = event.data; }});</script>"""
"""A window cannot be as narrow as a phone; a frame can, and its color scheme is that of its element."""

WIDTHS = {"desk": 1280, "phone": 375, "paper": 965}
"""In CSS pixels; paper is Letter, landscape, less the margins: 279 - 24 mm, and A4 is wider."""


class Silent(SimpleHTTPRequestHandler):
    """Serve a folder's files, and print nothing."""

    def log_message(self, *_):
        pass


@contextmanager
def served(folder) -> Iterator[str]:
    """Serve a folder to this machine alone; a page from a file may not read its own style sheets."""
    handler = functools.partial(Silent, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def complaints(content, folder, *, width="desk", scheme="light"):
    """Return what is wrong with a page, its console's lines among it; every details element is open.

    On paper it is what the page looks like printed. The folder is where the page's own links lead from.
    """
    function = "printComplaints" if width == "paper" else "complaints"
    end = INNER.format(checks=CHECKS.read_text("utf-8"), function=function)
    (folder / "inner.html").write_text(end.join(content.rsplit("</body>", 1)), encoding="utf-8")
    outer = folder / "outer.html"
    outer.write_text(OUTER.format(width=WIDTHS[width], scheme=scheme), encoding="utf-8")
    with served(folder) as address:
        done = subprocess.run(
            [BROWSER, f"--user-data-dir={folder / 'profile'}", *OPTIONS, f"{address}/{outer.name}"],
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
        )
    said = json.loads(html.unescape(re.search('data-said="(.*?)"', done.stdout, re.S)[1]))
    assert said["inner"] == WIDTHS[width]
    assert said["dark"] == (scheme == "dark")
    return said["found"] + [line for line in done.stderr.splitlines() if "CONSOLE" in line]
