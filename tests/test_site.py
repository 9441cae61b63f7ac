"""The site's start in Chromium: legible, labeled, reachable by keyboard, and no wider than a phone."""

import subprocess
import sys
from pathlib import Path

import pytest
from browser import NEEDS_BROWSER, complaints

ROOT = Path(__file__).parents[1]

pytestmark = NEEDS_BROWSER

THEMES = ("a table ", "a drawing ", "no name: <nav ", "a part that scrolls, but not by keyboard: <code>")
"""What is the theme's and Markdown's: tables without captions, decorations, navigation without names, and
long lines of code, which browsers let the keyboard scroll."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build it as `make docs` does, but for the two pages that need a demo's run."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--no-strict", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(("width", "scheme"), [("desk", "light"), ("desk", "dark"), ("phone", "light")])
def test_nothing_is_wrong_with_the_start(site, width, scheme):
    found = complaints((site / "index.html").read_text("utf-8"), site, width=width, scheme=scheme)
    assert [line for line in found if not line.startswith(THEMES)] == []


def test_what_is_wrong_is_found(site):
    wrong = '<p style="color: #999; width: 1500px">x</p><input><img src="data:,">'
    wrong += '<script>throw new Error("on purpose")</script>'
    content = (site / "index.html").read_text("utf-8").replace("</body>", f"{wrong}</body>")
    found = " ".join(complaints(content, site, width="phone"))
    for said in ("contrast", "scrolls sideways", "without a label", "without alternative text", "on purpose"):
        assert said in found
