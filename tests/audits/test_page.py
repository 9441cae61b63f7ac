import dataclasses
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from ggl.attacks.course import SearchResult
from ggl.audits import page
from ggl.audits.findings import AuditCell
from ggl.audits.page import render
from ggl.audits.report import Report
from ggl.base.errors import InputError
from ggl.measures.leakage import Scores
from ggl.measures.lpips import LPIPS_NOTE
from ggl.pages.templates import fixed
from ggl.pages.trade_off import LONGEST

N = 6
BROWSER = shutil.which("chromium")
VOID = {"meta", "link", "img", "br", "hr", "input"}
SETTINGS = {
    "victim": "LeNet",
    "victim_mode": "eval",
    "victim_parameters": 15226,
    "prior": "fashion-dcgan32",
    "images": N,
    "budget": 64,
    "seed": 0,
    "distance": "cosine",
    "attacker_knows": "architecture, weights, label",
}


class Page(HTMLParser):
    """Checks that tags balance; keeps every tag's attributes and the text by enclosing id."""

    def __init__(self, content):
        super().__init__()
        self.open, self.tags, self.texts, self.rows = [], [], {}, {}
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            for key in self.identities():
                self.rows.setdefault(key, []).append("")
        if tag not in VOID:
            self.open.append((tag, dict(attributes).get("id")))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for key in self.identities():
            self.texts[key] = self.texts.get(key, "") + data
            if "tr" in [tag for tag, _ in self.open]:
                self.rows[key][-1] += data

    def identities(self):
        return {identity for _, identity in self.open if identity}

    def text(self, identity):
        return " ".join(self.texts[identity].split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def scores(mse, n=N):
    values = mse * np.linspace(0.9, 1.1, n)
    names = {
        "psnr": -10 * np.log10(values),
        "ssim": 1 - values,
        "ssim_error": values,
        "mse": values,
        "lpips": values,
    }
    return Scores(names, np.arange(1, n + 1), np.full(n, 99))


def cell(defense, mse, *, strategy="cma-es", attacker="adaptive", n=N, images=None):
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)) if images is None else images
    history = [(16, 0.5), (32, 0.2), (64, 0.01)]
    results = [
        SearchResult(image[None], torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), 0.01, history, 64, 0)
        for image in images
    ]
    kinds = ("private", "sibling", "noise")
    controls = {"sibling": 0.10, "noise": 0.12, "prior": 0.11, "class mean": 0.09}
    return AuditCell(
        defense=defense,
        strategy=strategy,
        attacker=attacker,
        attack=scores(mse, n),
        controls={name: scores(value, n) for name, value in controls.items()},
        images=dict.fromkeys(kinds, images),
        label_accuracy=[1.0] * n,
        matches=dict.fromkeys(("private", "attack"), np.full(n, 0.01)),
        results=dict.fromkeys(kinds, results),
        seconds=2.0,
    )


def report(*cells):
    images = cells[0].images["private"]
    return Report(
        settings={**SETTINGS, "images": len(images)},
        images=images,
        labels=torch.arange(len(images)),
        siblings=images,
        ceiling_images=images,
        ceiling=scores(0.01, len(images)),
        cells=cells,
        seconds=3.0,
    )


def html(*cells, costs=None):
    made = report(*cells)
    made = made if costs is None else made.with_utility(costs)
    return render(made, made.to_dict())


def interval(mean, reach=0.01):
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "n": 3}


def entry(defense, accuracy):
    """One defense's figures as `ggl utility` writes them; the undefended accuracy is 0.8."""
    return {
        "defense": defense,
        "accuracy": interval(accuracy),
        "undefended_accuracy": interval(0.8),
        "accuracy_kept": interval(accuracy - 0.8),
        "client_bytes": 54_321.0,
        "undefended_client_bytes": 60_000,
    }


def utility(*entries):
    return {"settings": {"victim": "lenet", "clients": 4}, "results": list(entries)}


def points(page):
    start = "trade-off-point-"
    identities = [attributes.get("id", "") for _, attributes in page.tags]
    return [identity.removeprefix(start) for identity in identities if identity.startswith(start)]


def rows(page, section):
    """Return the text of every row of a section's tables."""
    return [" ".join(text.split()) for text in page.rows.get(section, [])]


def test_the_page_is_well_formed_self_contained_and_labeled():
    content = html(cell("none", 0.02), cell("noise:0.1", 0.12))
    found = Page(content)
    assert content.startswith("<!doctype html>")
    assert found.all("html")[0]["lang"] == "en"
    assert not re.findall(r"https?://(?!www\.w3\.org/(?:2000/svg|1999/xlink))", content)
    assert not found.all("script")
    assert not found.all("link")
    pictures = found.all("img")
    assert len(pictures) == 2 * 5 * N
    assert all(image["alt"] and image["src"].startswith("data:image/png;base64,") for image in pictures)
    assert "image 3, class 3: attack, PSNR 16.9 dB, rank 4 of 100" in {i["alt"] for i in pictures}
    assert "image 3, class 3: private image" in {i["alt"] for i in pictures}
    identities = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    targets = [a["href"].removeprefix("#") for a in found.all("a") if "href" in a]
    assert set(targets) <= set(identities)


def test_every_cell_has_its_rows_and_its_curve():
    cells = [cell(d, 0.05, strategy=s) for d in ("none", "clip:4") for s in ("cma-es", "random")]
    content = html(*cells)
    found = Page(content)
    for k, known in enumerate(cells):
        assert found.text(f"cell{k:02d}").count("strongest control") >= 1
        assert content.count(f"{k:02d}  {known.defense}, adaptive, {known.strategy}</text>") == 1
    assert "linear below 0.001" in content
    assert found.text("results").count("leaks n = 6") == 4
    assert found.text("results").count("class mean p = 0.031") == 4


def test_the_summary_judges_each_defense_by_its_strongest_attack():
    found = Page(
        html(
            cell("none", 0.02, attacker="naive"),
            cell("prune:0.9", 0.095, attacker="naive"),
            cell("prune:0.9", 0.05, attacker="adaptive"),
            cell("noise:1", 0.12),
            cell("clip:1", 0.095),
        )
    )
    assert found.text("summary").startswith(
        "Judged by the strongest attack on each defense, the shared gradients leak under none (0.88) and "
        "prune:0.9 (0.50); no leak was shown under noise:1 (−0.38) and clip:1 (−0.06)."
    )


def test_the_worst_case_comes_first_and_names_who_is_behind_each_figure():
    content = html(
        cell("none", 0.02, attacker="naive"),
        cell("prune:0.9", 0.095, attacker="naive"),
        cell("prune:0.9", 0.05, attacker="adaptive", strategy="adam"),
    )
    found = Page(content)
    assert content.index('id="worst-case"') < content.index('id="results"')
    head, none, prune = rows(found, "worst-case")
    assert head.startswith("Cell Defense Attacker strategy Verdict")
    assert none.startswith("00 none naive cma-es ▲ leaks n = 6 0.88 [")
    assert prune.startswith("02 prune:0.9 adaptive adam ▲ leaks n = 6 0.50 [")
    assert "Accuracy" not in head
    assert "picked after the fact" in found.text("worst-case")
    assert "of 2; alone [" in prune
    assert "alone [" not in none
    assert "utility" not in found.texts
    assert points(found) == []


def test_one_cell_a_defense_leaves_nothing_to_choose():
    assert "picked after the fact" not in Page(html(cell("none", 0.02))).text("worst-case")


def test_costs_stand_beside_the_worst_case_and_every_trained_defense_is_a_point():
    cells = [
        cell("none", 0.02),
        cell("prune:0.9", 0.095, attacker="naive"),
        cell("prune:0.9", 0.05),
        cell("sign", 0.04),
        cell("noise:1", 0.5),
    ]
    diverged = {**entry("noise:1", 0.1), "client_bytes": None}
    content = html(*cells, costs=utility(entry("none", 0.8), entry("prune:0.9", 0.755), diverged))
    found = Page(content)
    assert points(found) == ["00", "02", "04"]
    head, none, prune, sign, noise = rows(found, "worst-case")
    assert head.endswith("Accuracy test, % Kept points Sent kB a round")
    assert none.endswith("80.0 [79.0, 81.0] 0.0 [−1.0, 1.0] 54.3")
    assert prune.endswith("75.5 [74.5, 76.5] −4.5 [−5.5, −3.5] 54.3")
    assert sign.endswith("not trained")
    assert noise.endswith("undefined")
    assert "Not trained, and so without a point: sign." in found.text("utility")
    assert "undefended: 80.0 %" in found.text("utility")
    assert "Without a leak score" not in found.text("utility")
    assert [a["id"] for _, a in found.tags if a.get("id") == "trade-off-undefended"]
    assert "clients4" in found.text("settings")
    identities = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(identities) == len(set(identities))


def test_a_figure_without_intervals_points_or_scores():
    single = entry("none", 0.8)
    for key in ("accuracy", "accuracy_kept", "undefended_accuracy"):
        single[key] = {**single[key], "low": None, "high": None, "n": 1}
    assert points(Page(html(cell("none", 0.03, n=1), costs=utility(single)))) == ["00"]
    assert points(Page(html(cell("sign", 0.03), costs=utility(single)))) == []
    alone = cell("none", 0.02)
    made = dataclasses.replace(report(alone), ceiling=alone.controls["class mean"]).with_utility(
        utility(single)
    )
    found = Page(render(made, made.to_dict()))
    assert points(found) == []
    assert "Without a leak score, and so without a point: none." in found.text("utility")


def test_an_attack_that_identifies_is_not_called_no_leak():
    found = cell("prune:0.99", 0.095)
    found = dataclasses.replace(found, attack=dataclasses.replace(found.attack, ranks=np.ones(N, dtype=int)))
    page = Page(html(found))
    assert (
        "identify private images, though the leak score shows no leak, under prune:0.99 (−0.06)."
        in page.text("summary")
    )
    assert "identifies n = 6" in page.text("results")


@pytest.mark.parametrize(
    ("mse", "sentence"),
    [
        (0.02, "each defense, the shared gradients leak under a (0.88)."),
        (0.12, "each defense, no leak was shown under a (−0.38)."),
    ],
)
def test_the_summary_of_one_defense(mse, sentence):
    assert sentence in Page(html(cell("a", mse))).text("summary")


def test_what_is_undefined_says_so_and_is_no_verdict():
    found = Page(html(cell("none", 0.03, n=1)))
    assert "there is no verdict on none (0.75)." in found.text("summary")
    assert "undecided" in found.text("results")
    assert "[undefined]" in found.text("results")
    assert [a["title"] for a in found.all("span") if a.get("class") == "undefined"]
    assert "None" not in found.text("results")


def test_a_leak_score_without_a_mean():
    alone = cell("none", 0.02)
    made = dataclasses.replace(report(alone), ceiling=alone.controls["class mean"])
    found = Page(render(made, made.to_dict()))
    assert "there is no verdict on none." in found.text("summary")


def test_hostile_names_are_text():
    hostile = '<script>alert(1)</script>&"\'$x^$ id="b'
    content = html(
        cell(hostile, 0.02, strategy="--><img src=x onerror=y>"), costs=utility(entry(hostile, 0.5))
    )
    found = Page(content)
    assert not found.all("script")
    assert all("onerror" not in image for image in found.all("img"))
    assert hostile in found.text("summary")
    assert f"00  {hostile}" in found.texts["convergence"]
    assert f"{hostile[: LONGEST - 1]}…" in found.text("utility")
    assert hostile in found.text("worst-case")


def test_the_same_report_gives_the_same_bytes_and_changes_nothing():
    made = report(cell("none", 0.02), cell("clip:4", 0.05)).with_utility(utility(entry("none", 0.8)))
    result = made.to_dict()
    before = json.dumps(result)
    assert render(made, result) == render(made, result)
    assert json.dumps(result) == before


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_without_the_extra_the_error_names_it(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r'pip install "jinja2>=3\.1" "matplotlib>=3\.8"'):
        html(cell("none", 0.02))


def test_without_lpips_the_page_says_how_to_get_it():
    made = report(cell("none", 0.02))
    lacking = [made.ceiling, made.cells[0].attack, *made.cells[0].controls.values()]
    for found in lacking:
        del found.values["lpips"]
    assert page.LPIPS_HINT in Page(render(made, made.to_dict())).text("results")


@pytest.mark.parametrize(("side", "said"), [(32, True), (64, False)])
def test_an_lpips_of_enlarged_images_is_said_to_be_one(side, said):
    images = torch.rand(6, 1, side, side)
    found = Page(html(cell("none", 0.02, images=images)))
    assert (LPIPS_NOTE in found.text("results")) == said


def test_of_many_large_color_images_the_first_are_shown_reduced():
    images = torch.rand(page.COLUMNS_SHOWN + 2, 3, 300, 200)
    found = Page(html(cell("none", 0.02, n=len(images), images=images)))
    assert len(found.all("img")) == 5 * page.COLUMNS_SHOWN
    assert "The first 20 of 22 images" in found.text("pictures")
    assert max(len(image["src"]) for image in found.all("img")) < 4 * 3 * 144 * 96


@pytest.mark.parametrize("mean", [-7.0, -0.2, 0.5, 3.0])
def test_the_axis_holds_0_and_1_and_shows_what_lies_beyond(mean):
    interval = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}
    marks = page._Axis([interval]).marks(interval)
    assert 0 < marks["zero"] < marks["one"] < page.AXIS_WIDTH
    assert 0 < marks["low"] <= marks["mean"] <= marks["high"] < page.AXIS_WIDTH
    assert (marks["below"], marks["above"]) == (mean == -7, mean == 3)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "undefined"), (-0.001, "0.00"), (-0.5, "−0.50"), (1 / 3, "0.33")]
)
def test_numbers(value, text):
    assert fixed(value, 2) == text


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_opens_it_without_a_complaint(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(html(cell("none", 0.02), cell("noise:0.1", 0.12)), encoding="utf-8")
    quiet = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
    ]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [BROWSER, *quiet, profile, "--enable-logging=stderr", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    assert Page(done.stdout).text("summary") == Page(path.read_text(encoding="utf-8")).text("summary")
