import csv
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import jinja2
import numpy as np
import pytest
from made_records import CELL, failed, made_records, skipped, with_figures
from PIL import Image

from ggl.base.errors import InputError
from ggl.benchmarks.report import render, save
from ggl.benchmarks.report.heat import shade
from ggl.benchmarks.report.rows import rows_of
from ggl.benchmarks.report.tables import leak_table
from ggl.benchmarks.report.wall import MARKUP, wall_of
from ggl.benchmarks.sweeps.aggregate import groups_of
from ggl.benchmarks.sweeps.records import CurvePoint
from ggl.pages.templates import fill

VOID = {"meta", "link", "img", "br", "hr", "input"}
COMMAND = "ggl report runs/x"
SPECS = [("ab12", "x", 'name = "x"\n')]
N = 6


class Page(HTMLParser):
    """Checks that tags balance; keeps tags, the text by enclosing id, and every table cell's text."""

    def __init__(self, content):
        super().__init__()
        self.open, self.tags, self.texts, self.cells = [], [], {}, []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("td", "th"):
            self.cells.append((dict(attributes), ""))
        if tag not in VOID:
            self.open.append((tag, dict(attributes).get("id")))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, key in self.open:
            if key:
                self.texts[key] = self.texts.get(key, "") + data
        if {"td", "th"} & {tag for tag, _ in self.open}:
            attributes, text = self.cells[-1]
            self.cells[-1] = (attributes, text + data)

    def text(self, key):
        return " ".join(self.texts[key].split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def heat(self):
        """Return the text of every cell of the heat maps, the worst cases among them."""
        return [" ".join(t.split()) for a, t in self.cells if (a.get("class") or "").startswith("cell")]


def no_picture(cell, name):
    return None


def html(records, *, pictures=no_picture, utility=None, specs=SPECS, command=COMMAND):
    return render(records, specs=specs, pictures=pictures, utility=utility, command=command)


def files_of(folder):
    """Return a finder of small pictures, written when asked for; private ones and ceilings by image."""

    def find(cell, name):
        path = folder / f"{cell}-{name}.png"
        if not path.exists():
            Image.new("L", (8, 8), int(cell + name.encode().hex(), 16) % 251).save(path)
        return path

    return find


def tables(folder):
    return {
        path.stem: list(csv.DictReader(io.StringIO(path.read_text())))
        for path in (folder / "tables").iterdir()
    }


def interval(mean, reach=0.01):
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "n": 3}


def utility(victim="LeNet", **accuracies):
    known = [
        {
            "defense": name.replace("_", ":"),
            "accuracy": interval(accuracy),
            "accuracy_kept": interval(accuracy - 0.8),
            "undefended_accuracy": interval(0.8),
            "client_bytes": 1.0,
            "undefended_client_bytes": 1.0,
        }
        for name, accuracy in accuracies.items()
    ]
    return {"settings": {"victim": victim, "clients": 4}, "results": known}


def leaking(cell):
    return {"none": 0.012, "noise:1": 0.08}[cell.defense] * (1.5 if cell.strategy == "random" else 1)


@pytest.fixture(scope="module")
def plain():
    return html(made_records(("none", "noise:1"), images=N, attack=leaking))


def test_the_page_is_well_formed_self_contained_and_labeled(tmp_path):
    records = made_records(images=N)
    found = Page(html(records, pictures=files_of(tmp_path), utility=utility(none=0.8)))
    assert found.all("html")[0]["lang"] == "en"
    for attributes in (a for _, a in found.tags):
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:"))
    assert all(image["alt"] for image in found.all("img"))
    assert len(found.all("img")) == 4 * 3 * N
    assert "image 3, class 3: noise control, PSNR" in " ".join(i["alt"] for i in found.all("img"))
    assert all(
        "aria-label" in svg or svg.get("aria-hidden") == "true" or "viewbox" in svg
        for svg in found.all("svg")
    )
    pictures = [a for t, a in found.tags if t == "svg" and a.get("role") == "img"]
    assert pictures
    assert all(a["aria-label"] for a in pictures)
    regions = [a for a in found.all("div") if a.get("class") == "scroll"]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in regions)
    identities = [a["id"] for _, a in found.tags if "id" in a]
    assert len(identities) == len(set(identities))
    targets = {a["href"][1:] for a in found.all("a") + found.all("use") if "href" in a}
    assert targets <= set(identities)
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_no_request_is_written_anywhere(plain):
    assert not re.findall(r"https?://(?!www\.w3\.org/(?:2000/svg|1999/xlink))", plain)
    assert not re.findall(r"@import|fetch\(|XMLHttpRequest|url\((?!#)", plain)


def test_the_summary_says_what_leaks_how_sure_and_at_what_cost():
    records = made_records(("none", "noise:1"), images=8, attack=leaking)
    records[0] = failed(records[0])
    found = Page(html(records, utility=utility(none=0.8, noise_1=0.5))).text("summary")
    scores = {r["defense"] + r["strategy"]: r for r in leak_rows(records)}
    worst = [scores["nonecma-es"], scores["noise:1cma-es"]]
    shown = [
        "{:.2f} [{:.2f}, {:.2f}]".format(
            *(float(r[key]) for key in ("leak_mean", "corrected_low", "corrected_high"))
        ).replace("-", "−")
        for r in worst
    ]
    assert worst[0]["n"] == "7"
    assert f"1 shows no leak: noise:1 {shown[1]} by cma-es, −30.0 points." in found
    assert f"1 of 2 defenses leaks at worst: none {shown[0]} by cma-es, 0.0 points." in found
    assert "Points are of test accuracy, 80.0 % without a defense." in found
    assert "Of 32 cells 1 failed and 0 were skipped." in found
    assert "2 doubts" not in found
    assert "1 doubt and" in found


def test_the_summary_says_who_is_recognizable_under_each_defense():
    """Four of eight show four to one look, 1 - 0.99^5 = 0.049; two strategies are two, and show three."""
    records = [
        with_figures(
            record,
            {
                "attack_rank": 1 if record.cell.defense == "none" and record.cell.image < 4 else 30,
                **dict.fromkeys(("sibling_rank", "noise_rank", "prior_rank", "class_mean_rank"), 30),
            },
        )
        for record in made_records(("none", "noise:1", "sign"), images=8)
    ]
    found = Page(html(records)).text("recognized")
    assert found.startswith(
        "At least 3 of 8 people are recognizable under none; no person is shown to be recognizable under "
        "noise:1 and sign."
    )


def leak_rows(records):
    return list(csv.DictReader(io.StringIO(leak_table(rows_of(records, None)))))


def test_a_leak_score_is_the_ratio_of_sums_over_images(tmp_path):
    records = made_records(images=N, seeds=2, lpips=True)
    save(
        records,
        specs=SPECS,
        pictures=no_picture,
        utility=utility(none=0.75),
        command=COMMAND,
        folder=tmp_path,
    )
    found = tables(tmp_path)
    for row in found["leak"]:
        own = [
            r.figures
            for r in records
            if (r.cell.defense, r.cell.strategy) == (row["defense"], row["strategy"])
        ]
        control = sum(f[f"{row['control']}_mse"] for f in own)
        expected = (control - sum(f["attack_mse"] for f in own)) / (
            control - sum(f["ceiling_mse"] for f in own)
        )
        assert float(row["leak_mean"]) == pytest.approx(expected, rel=1e-4)
        assert float(row["lpips_mean"]) == pytest.approx(
            sum(f["attack_lpips"] for f in own) / len(own), rel=1e-4
        )
        assert (row["n"], row["seeds"], row["ok"], row["failed"]) == (str(N), "2", str(2 * N), "0")
        assert float(row["evaluations_per_second"]) == pytest.approx(
            sum(f["evaluations"] for f in own) / sum(f["seconds"] for f in own), rel=1e-4
        )
        assert row["accuracy_mean"] == ("75" if row["defense"] == "none" else "")
    assert len(found["images"]) == len(records)
    assert {line["cell"] for line in found["images"]} == {r.cell.id for r in records}
    assert set(found) == {"leak", "images", "convergence", "flags"}


def test_verdicts_are_corrected_for_the_groups_of_a_defense():
    """Each defense's groups are one family; a group's own verdict and interval stay beside."""
    records = made_records(strategies=("cma-es", "random", "adam"))
    found = rows_of(records, None)
    for row in found:
        assert row.correction.looks == 3
        assert row.correction.leak.p_value >= row.group.leak.p_value
        assert row.corrected["low"] < row.leak["low"]
        assert row.corrected["mean"] == row.leak["mean"]
        assert row.verdict == "leaks"
    lines = leak_rows(records)
    for row, line in zip(found, lines, strict=True):
        assert (line["verdict"], line["corrected_verdict"], line["looks"]) == ("leaks", "leaks", "3")
        assert float(line["corrected_low"]) == pytest.approx(row.corrected["low"], rel=1e-5)
        assert float(line["corrected_p"]) == pytest.approx(row.correction.leak.p_value, rel=1e-5)


def test_a_group_that_leaks_alone_and_not_among_many_says_both():
    """Seven of eight images gain, unevenly; in twenty other groups errors scatter about the control's."""
    gains = (0.6, 0.8, 0.9, 0.85, 0.95, 0.7, 1.05, 0.9)
    scattered = np.random.default_rng(0).normal(1, 0.2, (20, 8)).tolist()

    def attack(cell):
        share = gains if cell.strategy == "lucky" else scattered[len(cell.strategy) - 1]
        return 0.05 * share[cell.image]

    records = made_records(("none",), ("lucky", *("x" * k for k in range(1, 21))), attack=attack)
    lucky = next(row for row in rows_of(records, None) if row.strategy == "lucky")
    assert lucky.group.verdict == "leaks"
    assert lucky.verdict == "no leak shown"
    assert "uncorrected: leaks" in html(records)


def test_a_curve_is_the_mean_over_images_as_far_as_all_go(tmp_path):
    records = made_records(("none",), ("adam",), images=3)
    records[1] = replace(records[1], curve=records[1].curve[:4])
    save(records, specs=[], pictures=no_picture, utility=None, command=COMMAND, folder=tmp_path)
    lines = tables(tmp_path)["convergence"]
    assert len(lines) == 4
    for k, line in enumerate(lines):
        assert float(line["mse"]) == pytest.approx(sum(r.curve[k].mse for r in records) / 3, rel=1e-4)
        assert int(float(line["evaluations"])) == records[0].curve[k].evaluations
    broken = [replace(r, curve=(CurvePoint(4, 0.1, 1.0, math.inf), *r.curve[1:])) for r in records]
    assert Page(html(broken)).text("convergence").count("undefined") == 1


def test_the_heat_map_says_why_a_figure_is_missing(tmp_path):
    records = made_records(("none", "noise:1"), ("cma-es", "adam", "gp"), images=N, attack=leaking)
    where = [(r.cell.defense, r.cell.strategy, r.cell.image) for r in records]
    fates = {("none", "adam"): failed, ("none", "gp"): skipped}
    found = [
        fates.get(place[:2], lambda r: r)(record)
        for place, record in zip(where, records, strict=True)
        if place[:2] != ("noise:1", "gp")
    ]
    one = where.index(("noise:1", "adam", 2))
    found[one] = failed(found[one], "out of memory with one cell")
    page = Page(html(found))
    worst, plain, broken, left_out, *_, absent = page.heat()
    assert worst.startswith("▲")
    assert plain.startswith("▲")
    assert plain.endswith(f"n {N}")
    assert broken == "✕ failedGradientError: the gradient is zero"
    assert left_out == "– skippedexcluded: too slow here"
    assert absent == "not in the sweep"
    assert page.heat()[-2].endswith(f"n {N - 1}✕ 1 failed")
    assert "GradientError: the gradient is zero" in page.text("cells")
    assert "out of memory with one cell" in page.text("cells")


def test_costs_are_of_the_trained_victim_alone():
    records = made_records(("none", "noise:1"), images=N, attack=leaking)
    known = Page(html(records, utility=utility(none=0.8, noise_1=0.5)))
    assert re.search(r"<text [^>]*>noise:1</text>", html(records, utility=utility(none=0.8, noise_1=0.5)))
    assert [t for t, _ in known.tags].count("svg") > 5
    for found in (html(records), html(records, utility=utility("ResNet18", none=0.8))):
        page = Page(found)
        assert "utility" not in page.texts
        assert "is not known here" in page.text("summary")


def test_settings_have_a_table_each_after_the_worst_case_over_them():
    records = made_records(("none",), ("adam",), images=N, attackers=("naive", "adaptive"))
    records += made_records(("none",), ("adam",), images=N, base=replace(CELL, budget=4000))
    page = Page(html(records))
    maps = [a["data-map"] for a in page.all("div") if "data-map" in a]
    assert maps == ["", "0", "1", "2"]
    for label in ("attacker naive, budget 2,000", "attacker adaptive, budget 4,000"):
        assert label in page.text("leak")
    assert [o["value"] for o in page.all("option")][:4] == [
        *(
            "",
            "attacker naive, budget 2,000",
            "attacker adaptive, budget 2,000",
            "attacker adaptive, budget 4,000",
        )
    ]


def test_hostile_names_are_text():
    bad = "</script><script>alert(1)</script>&\"'${{ 7*7 }}"
    records = made_records((bad,), ('"><img src=x onerror=y>',), images=2)
    records += [failed(r, bad) for r in made_records(("none",), ("adam",), images=2)]
    page = Page(html(records, specs=[("ab", bad, bad)], command=bad, utility=utility(**{bad: 0.5})))
    assert len(page.all("script")) == 1
    assert not page.all("img")
    for section in ("summary", "leak", "convergence", "cells", "repeat", "results"):
        assert bad in page.text(section)


def test_the_same_input_gives_the_same_bytes(tmp_path):
    records = made_records(images=3)
    before = repr(records)
    for name in ("a", "b"):
        save(
            records,
            specs=SPECS,
            pictures=files_of(tmp_path),
            utility=utility(none=0.7),
            command=COMMAND,
            folder=tmp_path / name,
        )
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")]
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert repr(records) == before


def test_an_empty_store_and_one_that_failed_altogether():
    page = Page(html([], specs=[]))
    assert page.text("summary") == "The store holds no cells yet."
    assert "Nothing was measured." in page.text("leak")
    page = Page(html([failed(r) for r in made_records(images=2)]))
    assert "2 have no figure" in page.text("summary")
    assert all("failed" in text for text in page.heat())
    assert "No cell has a curve." in page.text("convergence")


def test_what_is_undefined_says_so():
    page = Page(html(made_records(images=1)))
    assert "[undefined]" in page.text("leak")
    assert "2 are undecided" in page.text("summary")
    page = Page(html(made_records(images=N, ceiling=0.06)))
    assert page.heat()[0].startswith("◆ undefined")
    missing = [with_figures(r, {"attack_psnr": None, "seconds": None}) for r in made_records(images=N)]
    page = Page(html(missing))
    assert "No cell has a PSNR." in page.text("images")
    assert "undefined" in page.text("costs")
    for section in page.texts:
        assert not re.search(r"\bNone\b|\bnan\b", page.text(section))


def test_three_hundred_groups_fit_on_one_page():
    defenses = [f"noise:{k}" for k in range(30)]
    records = made_records(defenses, [f"s{k}" for k in range(10)], images=1)
    content = html([replace(record, curve=record.curve[:2]) for record in records])
    page = Page(content)
    assert len([a for a in page.all("details") if a.get("class") == "card"]) == 300
    assert "26 more" in page.text("summary")
    assert len(content) < 8_000_000


def test_the_wall_holds_the_first_images_that_fit_and_shared_pictures_once(tmp_path):
    records = made_records(images=4)
    rows = rows_of(records, None)
    shared = files_of(tmp_path)

    def find(cell, name):
        return shared("0", name) if name in ("private", "ceiling") else shared(cell, name)

    whole = wall_of(rows, find)
    assert whole.images == [0, 1, 2, 3]
    assert len(whole.shared) == 2
    one = len(next(iter(whole.shared)))
    few = wall_of(rows, find, most=30 * one + 41 * MARKUP)
    assert (few.images, few.of, few.left_out) == ([0, 1], 4, False)
    least = wall_of(rows, find, most=6 * one + 6 * MARKUP)
    assert least.images == [0]
    assert least.left_out
    (tmp_path / "bad.png").write_bytes(b"no picture")
    for broken in (no_picture, lambda *_: tmp_path / "bad.png", lambda *_: tmp_path / "gone.png"):
        assert Page(html(records, pictures=broken)).text("g000").count("no picture") == 5 * 4


def test_flags_are_grouped_and_lead_to_their_explanation(tmp_path):
    records = [replace(r, sibling_image=r.private_image) for r in made_records(images=N)]
    page = Page(html(records))
    assert "doubt shared-image on 4 groups: an attacked image" in page.text("flags")
    assert "docs/flags.md#shared-image" in page.text("flags")
    assert all("⚑" in text for text in page.heat())
    save(records, specs=[], pictures=no_picture, utility=None, command=COMMAND, folder=tmp_path)
    assert sum(line["flag"] == "shared-image" for line in tables(tmp_path)["flags"]) == 4


def test_mixed_devices_are_said():
    records = made_records(images=2)
    assert "Mixed" not in Page(html(records)).text("repeat")
    records[0] = replace(records[0], device="cuda")
    assert "2 different values of “device”" in Page(html(records)).text("repeat")


def luminance(color):
    parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    r, g, b = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_the_scale_is_legible_and_runs_in_lightness_alone(plain):
    modes = [
        dict(re.findall(r"--([ht]\d): (#[0-9a-f]{6})", block))
        for block in plain.split("prefers-color-scheme")
    ]
    light, dark = [mode for mode in modes if "h0" in mode]
    for mode, sign in ((light, -1), (dark, 1)):
        for k in range(6):
            pair = sorted((luminance(mode[f"h{k}"]), luminance(mode[f"t{k}"])))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5
        shades = [luminance(mode[f"h{k}"]) * sign for k in range(1, 6)]
        assert shades == sorted(shades)


@pytest.mark.parametrize(
    ("score", "expected"), [(None, "hx"), (-3.0, "h0"), (0.0, "h0"), (0.1, "h1"), (0.11, "h2"), (2.0, "h5")]
)
def test_shades(score, expected):
    assert shade(score) == expected


def test_a_template_lacks_nothing_silently():
    with pytest.raises(jinja2.UndefinedError):
        fill("bench_report.html.jinja", {}, packages=("ggl.benchmarks", "ggl.pages"))
    with pytest.raises(jinja2.TemplateNotFound):
        fill("bench_report.html.jinja", {})


def test_a_folder_that_cannot_be_written(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(InputError) as error:
        save([], specs=[], pictures=no_picture, utility=None, command="", folder=path)
    assert str(error.value) == (
        f"{path}: expected a folder to write the report into, but: Not a directory; name another"
    )


def test_groups_are_those_of_the_aggregate():
    records = made_records(images=2)
    assert [row.group for row in rows_of(records, None)] == groups_of(records)
