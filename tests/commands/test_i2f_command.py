import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from html_pages import Page

from ggl.base.errors import InputError
from ggl.base.weights import save_tensors
from ggl.commands.i2f import I2FPlan, run_i2f
from ggl.datasets.loading import load_dataset
from ggl.datasets.picking import pick_private
from ggl.i2f.influence import influence
from ggl.i2f.page import draw_spread, render
from ggl.i2f.report import read_measured, to_dict
from ggl.measures.rank_correlation import rank_correlation
from ggl.measures.statistics import bootstrap_mean
from ggl.victims import load_victim

DEFENSES = ("none", "noise:0.01", "prune:0.9")
IMAGES = 6
SMALL = {}


def errors_of_an_attack():
    """Stand for an attack's errors, a CSV with a number of the defense's and the image's."""
    rows = [f"{d},{i},0,{0.1 * (1 + k) + 0.01 * i}" for k, d in enumerate(DEFENSES) for i in range(IMAGES)]
    return "\n".join(["defense,image,draw,rmse", *rows])


@pytest.fixture(scope="module", autouse=True)
def small_images(tmp_path_factory):
    """Bring the embedded images down to 8 pixels: every eigenpair is solved for."""
    data = load_dataset("fashion-mnist-heldout")
    pixels = torch.nn.functional.avg_pool2d(data.images[:200], 4)[:, 0]
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, images=(pixels * 255).round().byte().numpy(), labels=data.labels[:200].numpy())
    SMALL["data"] = str(path)


def plan(out, **changes):
    usual = I2FPlan(
        victim="mlp",
        data=SMALL["data"],
        defenses=DEFENSES,
        out=out,
        images=IMAGES,
        draws=2,
        damping=0.1,
        device="cpu",
    )
    return replace(usual, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("i2f") / "run"
    measured = tmp_path_factory.mktemp("measured") / "attack.csv"
    measured.write_text(errors_of_an_attack())
    run_i2f(plan(path, measured=measured))
    return path


@pytest.fixture(scope="module")
def result(folder):
    return json.loads((folder / "i2f.json").read_text())


@pytest.fixture(scope="module")
def found():
    data = load_dataset(SMALL["data"])
    chosen = pick_private(data.labels, IMAGES, 0)
    victim = load_victim("mlp", in_channels=1, num_classes=10, image_size=8)
    return influence(victim, data.images[chosen], data.labels[chosen], "prune:0.9", draws=2, damping=0.1)


def test_the_folder_holds_the_figures_of_the_influence_function(folder, result, found):
    assert {path.name for path in folder.iterdir()} == {"i2f.json", "i2f.csv", "i2f.html"}
    assert [entry["defense"] for entry in result["results"]] == list(DEFENSES)
    entry = result["results"][2]
    assert [row["exact_rmse"] for row in entry["rows"]] == pytest.approx(found.exact_rmse.ravel())
    assert [row["bound_rmse"] for row in entry["rows"]] == pytest.approx(found.bound_rmse.ravel())
    means = found.exact_rmse.mean(1)
    assert entry["exact_rmse"]["mean"] == pytest.approx(bootstrap_mean(means).to_dict())
    quartiles = [entry["exact_rmse"][key] for key in ("lower_quartile", "median", "upper_quartile")]
    assert quartiles == pytest.approx(np.quantile(means, [0.25, 0.5, 0.75]))
    assert result["settings"]["damping"] == 0.1
    assert entry["converged"] == entry["points"] == 2 * IMAGES


def test_the_csv_has_a_row_for_every_defense_image_and_draw(folder, result):
    with (folder / "i2f.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    keys = [(row["defense"], int(row["image"]), int(row["draw"])) for row in rows]
    assert keys == [(d, i, k) for d in DEFENSES for i in range(IMAGES) for k in range(2)]
    known = [row for entry in result["results"] for row in entry["rows"]]
    for row, wanted in zip(rows, known, strict=True):
        assert float(row["bound_rmse"]) == wanted["bound_rmse"]
        assert row["measured_rmse"] == ("" if wanted["draw"] else str(wanted["measured_rmse"]))


def test_the_fairness_table_is_of_the_classes_predictions(result, found):
    predicted = found.exact_rmse.mean(1)
    classes = result["results"][2]["classes"]
    assert sum(c["images"] for c in classes) == IMAGES
    for c in classes:
        here = predicted[found.labels == c["label"]]
        assert len(here) == c["images"]
        assert c["ratio"] == pytest.approx(here.mean() / predicted.mean())
        assert c["predicted_rmse"]["mean"] == pytest.approx(here.mean())
    assert all(c["ratio"] is None for c in result["results"][0]["classes"])


def test_the_rank_correlation_is_of_the_bound_and_what_was_measured(result):
    rows = [r for e in result["results"] for r in e["rows"] if r["measured_rmse"] is not None]
    assert len(rows) == 3 * IMAGES
    assert list(result["correlation"]) == ["bound_rmse", "exact_rmse"]
    for prediction, found in result["correlation"].items():
        columns = [[r[key] for r in rows] for key in (prediction, "measured_rmse", "image")]
        assert found["all"] == rank_correlation(*columns).to_dict()
        assert list(found) == ["all", *DEFENSES]
        assert found["none"]["mean"] is None


def test_the_page_needs_nothing_from_elsewhere_and_says_what_was_found(folder, result):
    content = (folder / "i2f.html").read_text()
    page = Page(content)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link")]
    links = [a[key] for _, a in page.tags for key in ("src", "href", "xlink:href") if a.get(key)]
    assert links
    assert [link for link in links if not link.startswith("#")] == []
    assert not re.search(r"@import|url\((?!#)", content)
    identities = [a["id"] for _, a in page.tags if "id" in a]
    assert len(identities) == len(set(identities))
    assert {link[1:] for link in links} <= set(identities)
    text = " ".join(page.words)
    assert f"a predicted RMSE of {result['results'][2]['exact_rmse']['mean']['mean']:.3g}" in text
    assert "changes nothing" in text
    assert "Measured errors" in text
    assert content == render(result)


@pytest.mark.parametrize(("power", "doubted"), [(2.0, False), (1.08, True), (2.6, True), (None, False)])
def test_the_page_says_where_the_gradient_is_not_linear(result, power, doubted):
    page = render(result | {"settings": result["settings"] | {"linearity_power": power}})
    assert ('id="doubt"' in page) == doubted
    assert not doubted or f"with the power {power:.2f} of a step" in page


def test_without_measured_errors_there_is_no_scatter(found):
    made = to_dict(
        [found],
        {},
        {"victim": "<img src=x>", "data": "x", "images": 6, "draws": 2, "damping": 0.1, "seed": 0}
        | {"linearity_power": None},
    )
    content = render(made)
    assert "Measured errors" not in " ".join(Page(content).words)
    assert "<img src=x>" not in content


def test_measured_errors_come_from_a_csv_and_a_bound_needs_no_solve(tmp_path):
    table = tmp_path / "attack.csv"
    table.write_text("defense,image,draw,rmse,seconds\nprune:0.9,0,0,0.25,1\nprune:0.9,1,0,0.5,1\n")
    asked = plan(tmp_path / "run", defenses=("prune:0.9",), images=2, draws=1, exact=False, measured=table)
    made = run_i2f(asked)
    (entry,) = made["results"]
    assert [row["measured_rmse"] for row in entry["rows"]] == [0.25, 0.5]
    assert entry["exact_rmse"] is None
    assert "not solved for" in (tmp_path / "run" / "i2f.html").read_text()


def test_the_victims_weights_are_those_given(tmp_path):
    victim = load_victim("mlp", in_channels=1, num_classes=10, image_size=8, seed=5)
    save_tensors(tmp_path / "w.safetensors", dict(victim.state_dict()))
    usual = {"defenses": ("prune:0.9",), "images": 1, "draws": 1, "exact": False}
    given = run_i2f(plan(tmp_path / "a", victim_weights=tmp_path / "w.safetensors", **usual))
    other = run_i2f(plan(tmp_path / "b", **usual))
    assert given["settings"]["victim_weights"].startswith("w.safetensors, SHA-256 ")
    assert given["results"] != other["results"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("defense,image,rmse\n", "expected the columns defense, image, draw, rmse, found no 'draw'"),
        ("defense,image,draw,rmse\nnone,0,0,-1\n", "line 2: expected an rmse of at least 0, found -1"),
        (
            "defense,image,draw,rmse\nnone,0,0,1\nnone,0,0,1\n",
            "line 3: none, 0, 0 is there twice; leave one out",
        ),
        ("defense,image,draw,rmse\nnone,x,0,1\n", "line 2: expected whole numbers for image and draw"),
        ("defense,image,draw,rmse\nnone,0\n", "line 2: expected whole numbers for image and draw"),
    ],
)
def test_a_bad_csv_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read_measured(path)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, folder):
    with pytest.raises(InputError, match=r"holds i2f\.json already; choose another folder"):
        run_i2f(plan(folder))
    out = tmp_path / "new"
    with pytest.raises(InputError, match="expected one defense or more, each once; found none, none"):
        run_i2f(plan(out, defenses=("none", "none")))
    with pytest.raises(InputError, match="draws noise on every pass"):
        run_i2f(plan(out, defenses=("precode",), images=1))
    with pytest.raises(InputError, match=r"no such|cannot|can be read"):
        run_i2f(plan(out, measured=tmp_path / "none.csv"))
    table = tmp_path / "attack.csv"
    table.write_text("defense,image,draw,rmse\nnoise:3,0,0,1\n")
    with pytest.raises(InputError, match="found one of defense noise:3, image 0, draw 0"):
        run_i2f(plan(out, images=1, draws=1, exact=False, measured=table))
    assert not out.exists()


def test_a_short_logarithmic_axis_is_labeled_in_plain_numbers(result):
    entry = result["results"][1]
    bounds = [
        {**row, "exact_rmse": None, "bound_rmse": x}
        for row, x in zip(entry["rows"], (0.0113, 0.0125), strict=False)
    ]
    svg = str(draw_spread([{**entry, "rows": bounds}]))
    assert "mathdefault" not in svg
    assert ">0.012<" in svg


@pytest.fixture(scope="module")
def with_prior(tmp_path_factory):
    path = tmp_path_factory.mktemp("i2f") / "prior"
    lenet = I2FPlan(
        victim="lenet",
        data="fashion-mnist-heldout",
        defenses=("none", "noise:0.5"),
        out=path,
        images=2,
        exact=False,
        device="cpu",
        prior="fashion-dcgan32",
        ceiling_budget=40,
    )
    run_i2f(lenet)
    return path


def test_with_a_prior_files_and_page_hold_the_forecast(with_prior):
    result = json.loads((with_prior / "i2f.json").read_text())
    none, noise = (entry["forecast"] for entry in result["results"])
    assert result["settings"]["prior"] == none["prior"] == "fashion-dcgan32"
    assert result["settings"]["ceiling_budget"] == 40
    assert none["ceiling_rmse"] == noise["ceiling_rmse"]
    assert none["ceiling_psnr"]["least"] > 12
    assert none["posterior_rmse"]["most"] < noise["posterior_rmse"]["least"] < noise["prior_rmse"]["most"]
    rows = list(csv.DictReader((with_prior / "i2f.csv").read_text().splitlines()))
    assert len(rows) == 4
    for row in rows:
        total = float(row["ceiling_rmse"]) ** 2 + float(row["posterior_rmse"]) ** 2
        assert float(row["forecast_rmse"]) ** 2 == pytest.approx(total)
        assert float(row["forecast_psnr"]) == pytest.approx(-10 * np.log10(total))
    page = Page((with_prior / "i2f.html").read_text())
    assert any(section.get("id") == "forecast" for section in page.all("section"))
    assert f"{none['psnr']['mean']['mean']:.1f} dB are forecast" in page.text
    assert "What an attacker with a prior is expected to find" in page.text


def test_measured_errors_are_set_beside_the_forecast(with_prior, tmp_path):
    path = tmp_path / "measured.csv"
    path.write_text(
        "defense,image,draw,rmse\nnone,0,0,0.1\nnone,1,0,0.2\nnoise:0.5,0,0,0.3\nnoise:0.5,1,0,0.4\n"
    )
    plan = I2FPlan(
        victim="lenet",
        data="fashion-mnist-heldout",
        defenses=("none", "noise:0.5"),
        out=tmp_path / "out",
        images=2,
        exact=False,
        device="cpu",
        prior="fashion-dcgan32",
        ceiling_budget=10,
        measured=path,
    )
    found = run_i2f(plan)
    assert set(found["correlation"]) == {"bound_rmse", "forecast_rmse"}
    assert found["correlation"]["forecast_rmse"]["all"]["n"] == 2
    assert "forecast with the prior" in (tmp_path / "out" / "i2f.html").read_text()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prior": "fashion-dcgan32", "attack": "noise"}, "has no prior: leave it or --prior out"),
        ({"prior": "fashion-dcgan32", "image_size": 32}, "--image-size: with --prior"),
        ({"prior": "fashion-dcgan32"}, "32"),
        ({"prior": "pixels:1x8x8", "defenses": ("none",)}, "leave the prior out"),
    ],
)
def test_a_prior_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, changes, expected):
    with pytest.raises(InputError, match=re.escape(expected)) as refused:
        run_i2f(plan(tmp_path / "out", **changes))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
