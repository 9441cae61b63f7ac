"""The page of a store in Chromium; CHROMIUM names the browser, else it is looked for on PATH."""

import re
import shutil
import socketserver
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pytest
from browser import BROWSER, NEEDS_BROWSER, complaints
from made_records import CELL, made_records
from PIL import Image

from ggl.benchmarks.report import render

pytestmark = NEEDS_BROWSER

STANDING = Path(__file__).parents[2] / "benchmarks" / "results" / "cpu" / "report.html"

QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync", "--disable-default-apps", "--virtual-time-budget=3000"),
)

OWN_HOSTS = ("update.googleapis.com", "clients2.google.com", "accounts.google.com")
"""What Chromium asks for by itself."""

HEAT = """<script>addEventListener("load", () => {
  const box = document.querySelector("div[data-map]:not(.off) .scroll");
  const head = box.querySelector("tbody th");
  const before = head.getBoundingClientRect().left;
  box.scrollLeft = 200;
  const numbers = [box.scrollWidth, box.clientWidth, before, head.getBoundingClientRect().left];
  parent.postMessage([...numbers, box.offsetHeight - box.clientHeight].join(" "), "*");
});</script></body>"""

FRAME = """<!doctype html>
<iframe src="inner.html" style="width: {width}px; height: 900px; border: 0"></iframe>
<script>addEventListener("message", (event) => {{ document.body.dataset.said = event.data; }});</script>"""

BROKEN = """<script>throw new Error("on purpose")</script>
<img alt="" src="http://elsewhere.invalid/x.png"></body>"""


class Proxy(socketserver.ThreadingTCPServer):
    """Stands between the browser and any network; keeps what it was asked for and answers nothing."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Asked)
        self.asked = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Asked(socketserver.StreamRequestHandler):
    def handle(self):
        self.server.asked.append(self.rfile.readline().decode(errors="replace").strip())


@pytest.fixture
def open_page(tmp_path):
    """Return a function that opens a page and returns its DOM, its console, and what it asked for."""
    with Proxy() as proxy:

        def opened(content, fragment=""):
            path = tmp_path / "report.html"
            path.write_text(content, encoding="utf-8")
            options = [
                f"--user-data-dir={tmp_path / 'profile'}",
                "--window-size=1280,800",
                f"--proxy-server=127.0.0.1:{proxy.server_address[1]}",
                *("--enable-logging=stderr", "--v=0", "--dump-dom", path.as_uri() + fragment),
            ]
            done = subprocess.run(
                [BROWSER, *QUIET, *options], capture_output=True, text=True, timeout=100, check=True
            )
            said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
            asked = [line for line in proxy.asked if not any(host in line for host in OWN_HOSTS)]
            return done.stdout, said, asked

        yield opened
        proxy.shutdown()


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")

    def find(cell, name):
        path = folder / f"{cell}-{name}.png"
        if not path.exists():
            Image.new("L", (8, 8), int(cell, 16) % 256).save(path)
        return path

    records = made_records(("none", "noise:0.2", "top-k:0.01,momentum=0"), ("cma-es", "random"), images=6)
    records += made_records(("none",), ("cma-es",), images=6, base=replace(CELL, budget=4000))
    share = {"mean": 0.5, "low": 0.4, "high": 0.6}
    shares = dict.fromkeys(("accuracy", "accuracy_kept", "undefended_accuracy"), share)
    sizes = {"client_bytes": 1, "undefended_client_bytes": 1}
    utility = {"settings": {"victim": "lenet"}, "results": [{"defense": "none", **sizes, **shares}]}
    return render(
        records, specs=[("a", "x", "name = 'x'")], pictures=find, utility=utility, command="ggl report x"
    )


def tags(dom, pattern):
    return re.findall(rf"<[a-z]+ [^>]*{pattern}[^>]*>", dom)


def shown(found):
    return [tag for tag in found if not re.search(r'class="[^"]*\boff\b', tag)]


def test_it_opens_without_a_complaint_and_without_a_request(open_page, content):
    dom, said, asked = open_page(content)
    assert said == []
    assert asked == []
    assert len(shown(tags(dom, 'class="card'))) == len(tags(dom, 'class="card')) == 7
    assert "7 of 7 groups are shown." in dom
    assert len(shown(tags(dom, "data-map="))) == 1
    assert not tags(dom, 'class="controls"[^>]*hidden')


def test_these_checks_can_fail(open_page, content):
    _, said, asked = open_page(content.replace("</body>", BROKEN))
    assert any("on purpose" in line for line in said)
    assert any("elsewhere.invalid" in line for line in asked)


def test_a_link_with_filters_shows_what_it_names(open_page, content):
    wanted = {
        "setting": "budget 2,000",
        "defense": "top-k:0.01,momentum=0",
        "strategy": "random",
        "image": "2",
    }
    dom, said, _ = open_page(content, "#" + urlencode(wanted))
    assert said == []
    (card,) = shown(tags(dom, 'class="card'))
    assert re.search(r'data-setting="0" data-defense="2" data-strategy="1" open', card)
    assert "1 of 7 groups are shown." in dom
    assert [re.search('data-map="(.*?)"', tag)[1] for tag in shown(tags(dom, "data-map="))] == ["0"]
    pictures = shown(tags(dom, "data-image="))
    assert len(pictures) == 7 * 6
    assert all('data-image="2"' in tag for tag in pictures)
    rows = shown(tags(dom, "data-item"))
    assert all('data-strategy="1"' in tag or "data-strategy" not in tag for tag in rows)
    assert all('data-defense="2"' in tag or "data-defense" not in tag for tag in rows)


def test_a_link_with_an_unknown_filter_says_so_and_hides_nothing(open_page, content):
    dom, said, _ = open_page(content, "#defense=nonsense")
    assert said == []
    assert "7 of 7 groups are shown. Not on this page: defense nonsense." in dom


def test_a_cell_leads_to_its_pictures(open_page, content):
    assert not re.search(r'class="shelf" open.*', tags(content, 'class="shelf')[2])
    dom, _, _ = open_page(content, "#g006")
    assert " open" in tags(dom, 'class="card')[-1]
    assert [" open" in shelf for shelf in tags(dom, 'class="shelf')] == [True, False, True]


@pytest.mark.parametrize(
    ("width", "scheme"), [("desk", "light"), ("desk", "dark"), ("phone", "light"), ("paper", "light")]
)
def test_nothing_is_wrong_with_it_on_any_screen_and_on_paper(content, tmp_path, width, scheme):
    assert complaints(content, tmp_path, width=width, scheme=scheme) == []


@pytest.mark.parametrize("width", ["desk", "phone", "paper"])
def test_nothing_is_wrong_with_the_standing_page(tmp_path, width):
    assert complaints(STANDING.read_text("utf-8"), tmp_path, width=width) == []


def test_the_standing_heat_map_fits_a_desk_and_scrolls_beside_its_first_column_on_a_phone(
    open_page, tmp_path
):
    found = {}
    (tmp_path / "inner.html").write_text(
        STANDING.read_text("utf-8").replace("</body>", HEAT), encoding="utf-8"
    )
    for width in (1280, 375):
        dom, said, _ = open_page(FRAME.format(width=width))
        assert said == []
        found[width] = [float(x) for x in re.search('data-said="(.*?)"', dom)[1].split()]
    map_width, box_width, *_ = found[1280]
    assert map_width <= box_width
    map_width, box_width, before, after, bar = found[375]
    assert map_width > box_width
    assert 0 <= before - after < 3  # the space around cells scrolls away
    assert bar > 5


def test_without_script_everything_is_there(content):
    assert not re.search(r'class="[^"]*\boff\b', content)
    bars = tags(content, 'class="controls"')
    assert len(bars) == 2
    assert all(bar.endswith(" hidden>") for bar in bars)


def test_the_browser_is_there():
    assert Path(BROWSER).exists() or shutil.which(BROWSER)
