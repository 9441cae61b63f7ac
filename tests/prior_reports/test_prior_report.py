import argparse
import dataclasses
import io
import json
import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from html_pages import Page
from PIL import Image

from ggl.attacks.course import SearchResult
from ggl.base.errors import CheckpointError, InputError
from ggl.base.random import stream
from ggl.benchmarks.speed import priors
from ggl.commands.prior_report import CHECKPOINTS, PriorPlan, run_prior_report
from ggl.datasets.loading import Dataset, load_dataset
from ggl.datasets.picking import pick_private
from ggl.generators import Prior, load_prior
from ggl.measures.lpips import LPIPS_NOTE
from ggl.measures.statistics import bootstrap_mean
from ggl.prior_reports import inversion as prior_inversion
from ggl.prior_reports.inversion import DRAWS, Inverter, means_of_others
from ggl.prior_reports.page import grid, render, save
from ggl.prior_reports.report import prior_report, slerp

BUDGET = 48


class Tiny(Prior):
    """Unconditional, color; a latent is the image's first pixels."""

    name, licence, latent_dim, image_shape = "tiny", "MIT", 3, (3, 12, 12)

    def decode(self, z, labels=None):
        return torch.sigmoid(z)[:, :, None, None].expand(-1, 3, 12, 12)


def stripes(n=6, shape=(1, 32, 32), labels=None):
    images = torch.rand((n, *shape), generator=torch.Generator().manual_seed(1))
    return Dataset("stripes", images, torch.arange(n) + 20 if labels is None else labels, 40)


@pytest.fixture(scope="module", autouse=True)
def lpips():
    """A stand-in, whether or not the weights are at hand: the mean absolute error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prior_inversion, "load_lpips", lambda: lambda a, b: (a - b).abs().flatten(1).mean(1))
        yield


@pytest.fixture(scope="module")
def prior():
    return load_prior("fashion-dcgan32")


@pytest.fixture(scope="module")
def heldout():
    return load_dataset("fashion-mnist-heldout")


@pytest.fixture(scope="module")
def report(prior, heldout):
    return prior_report(prior, {"clothes": heldout, "stripes": stripes()}, images=3, budget=BUDGET)


@pytest.fixture(scope="module")
def folder(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("prior")
    save(report, path)
    return path


@pytest.fixture(scope="module")
def result(folder):
    return json.loads((folder / "prior.json").read_text())


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_the_folder_holds_these_files_and_the_whole_result(folder, report, result):
    assert {path.name for path in folder.iterdir()} == {
        *("prior.json", "prior.html", "samples.png", "interpolation.png"),
        *("inversion-clothes.png", "inversion-stripes.png"),
    }
    assert result == json.loads(json.dumps(report.to_dict()))
    assert result["settings"]["budget"] == BUDGET


def test_the_grids_hold_the_samples_a_row_a_class(folder, report, prior):
    assert report.sample_classes == list(range(10))
    z = prior.sample(80, stream(0, "prior samples"))
    for row, column in ((0, 0), (3, 5), (9, 7)):
        k = 8 * row + column
        wanted = prior.decode(z[k : k + 1], torch.tensor([row]))[0, 0]
        found = pixels(folder / "samples.png")[2 + 34 * row :, 2 + 34 * column :][:32, :32]
        assert np.abs(found - (wanted * 255).round().numpy()).max() <= 1


def test_private_images_stand_above_their_inversions(folder, report):
    found = pixels(folder / "inversion-clothes.png")
    images = report.sets["clothes"].images
    inverted = torch.cat([result.images for result in report.sets["clothes"].results])
    for row, batch in enumerate((images, inverted)):
        for column in range(3):
            tile = found[2 + 34 * row :, 2 + 34 * column :][:32, :32]
            assert np.array_equal(tile, (batch[column, 0] * 255).round().numpy())


def test_an_interpolation_joins_two_samples(report, prior):
    z = prior.sample(8, stream(0, "prior interpolation"))
    classes = torch.tensor(report.path_classes)
    assert report.path_classes == [0, 3, 6, 9]
    assert torch.allclose(report.interpolation[:, 0], prior.decode(z[:4], classes), atol=1e-5)
    assert torch.allclose(report.interpolation[:, -1], prior.decode(z[4:], classes), atol=1e-5)


def test_large_images_are_reduced_in_a_grid():
    picture = Image.open(io.BytesIO(grid(torch.full((2, 3, 3, 40, 20), 0.5), 16)))
    assert (picture.mode, picture.size) == ("RGB", (3 * 10 + 2, 2 * 18 + 2))


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_slerp_goes_along_the_arc_at_one_speed(t):
    angle = torch.tensor([0.3, 1.0, 2.5])
    first = torch.tensor([[1.0, 0.0]]).repeat(3, 1)
    last = torch.stack([angle.cos(), angle.sin()], dim=1)
    wanted = torch.stack([(t * angle).cos(), (t * angle).sin()], dim=1)
    assert torch.allclose(slerp(first, last, t), wanted, atol=1e-6)


def test_slerp_of_latents_in_line_is_the_straight_line():
    z = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    assert torch.allclose(slerp(z, 2 * z, 0.5), 1.5 * z)
    assert torch.allclose(slerp(z, -z, 0.25), 0.5 * z)


def slow_psnr(a, b):
    return -10 * math.log10(float(((a.double() - b.double()) ** 2).mean()))


def test_the_figures_are_those_of_the_images(result, report, prior, heldout):
    rows = pick_private(heldout.labels, 3, 0)
    images, labels = heldout.images[rows], heldout.labels[rows]
    found = report.sets["clothes"]
    z = prior.sample(DRAWS * 3, stream(0, "prior control"))
    draws = [prior.decode(z[3 * k : 3 * k + 3], labels) for k in range(DRAWS)]
    means = []
    for row in rows.tolist():
        same = [
            k for k in range(1000) if k != row and not torch.equal(heldout.images[k], heldout.images[row])
        ]
        means.append(heldout.images[[k for k in same if heldout.labels[k] == heldout.labels[row]]].mean(0))
    wanted = {
        "inversion": [slow_psnr(r.images[0], x) for r, x in zip(found.results, images, strict=True)],
        "random sample": [np.mean([slow_psnr(d[i], images[i]) for d in draws]) for i in range(3)],
        "mean sample": [slow_psnr(sum(draws)[i] / DRAWS, images[i]) for i in range(3)],
        "class mean": [slow_psnr(means[i], images[i]) for i in range(3)],
    }
    figures = result["sets"]["clothes"]["figures"]
    assert figures.keys() == wanted.keys()
    for kind, values in wanted.items():
        interval = bootstrap_mean(values).to_dict()
        assert figures[kind]["psnr"] == pytest.approx(interval, abs=1e-4), kind
    assert [image["psnr"] for image in result["sets"]["clothes"]["images"]] == pytest.approx(
        wanted["inversion"], abs=1e-4
    )
    errors = [float((r.images[0] - x).abs().mean()) for r, x in zip(found.results, images, strict=True)]
    assert figures["inversion"]["lpips"]["mean"] == pytest.approx(np.mean(errors), abs=1e-6)


def test_the_gain_is_over_the_strongest_control(result):
    for found in result["sets"].values():
        psnr = {kind: figures["psnr"]["mean"] for kind, figures in found["figures"].items()}
        best = max((value, kind) for kind, value in psnr.items() if kind != "inversion")
        assert found["gain"]["control"] == best[1]
        assert found["gain"]["mean"] == pytest.approx(psnr["inversion"] - best[0], abs=1e-9)
        assert 0 < found["gain"]["p_value"] <= 1


def test_the_curve_ends_at_the_inversions_and_never_falls(result):
    for found in result["sets"].values():
        curve = found["curve"]
        assert curve["evaluations"][-1] == found["evaluations"] <= BUDGET
        assert curve["psnr"] == sorted(curve["psnr"])
        assert curve["psnr"][-1] == pytest.approx(found["figures"]["inversion"]["psnr"]["mean"], abs=1e-3)


def test_a_search_that_stopped_counts_with_its_last_value(report):
    made = report.sets["clothes"]
    histories = [[(8, 0.1)], [(8, 0.01), (16, 0.001)]]
    results = [
        SearchResult(made.images[:1], torch.zeros(1, 64), made.labels[:1], 0.0, h, 16, 0) for h in histories
    ]
    evaluations, decibels = dataclasses.replace(made, results=results).curve()
    assert (evaluations, decibels) == ([8, 16], pytest.approx([15.0, 20.0]))


def test_an_image_alone_in_its_class_leaves_no_class_mean(result, heldout):
    assert "class mean" not in result["sets"]["stripes"]["figures"]
    alone = stripes(3, labels=torch.tensor([0, 0, 1]))
    assert means_of_others(alone.images, alone.labels, alone) is None
    twins = dataclasses.replace(alone, images=alone.images[[0, 0, 1]], labels=torch.tensor([0, 0, 0]))
    means = means_of_others(twins.images, twins.labels, twins)
    assert torch.equal(means, twins.images[[2, 2, 0]]) or torch.allclose(means, twins.images[[2, 2, 0]])


def test_a_set_of_other_labels_is_searched_in_the_nearest_classes(result, report, prior):
    assert [found["classes"] for found in result["sets"].values()] == ["own", "nearest"]
    found = report.sets["stripes"]
    z = prior.sample(8, stream(0, "prior classes"))
    means = [prior.decode(z, torch.full((8,), label)).mean(0) for label in range(10)]
    for image, label in zip(found.images, found.classes.tolist(), strict=True):
        distances = [float((mean - image).square().sum()) for mean in means]
        assert distances[label] == min(distances)
    assert [image["label"] >= 20 for image in result["sets"]["stripes"]["images"]] == [True] * 3


def test_the_mean_sample_of_a_class_is_nearest_to_that_class(prior):
    inverter = Inverter(prior, torch.device("cpu"), "cma-es", BUDGET, 0, None, None)
    z = prior.sample(8, stream(0, "prior classes"))
    means = torch.stack([prior.decode(z, torch.full((8,), label)).mean(0) for label in (7, 2, 9)])
    assert inverter.nearest_classes(means).tolist() == [7, 2, 9]


def test_large_images_are_compared_reduced():
    coarse = torch.rand((2, 3, 64, 32), generator=torch.Generator().manual_seed(0))
    fine = coarse.repeat_interleave(2, -2)
    assert torch.allclose(prior_inversion._reduced(fine), coarse)
    assert torch.equal(prior_inversion._reduced(coarse), coarse)


def test_labels_can_be_asked_to_be_the_nearest_classes(prior, heldout):
    made = prior_report(prior, {"x": heldout}, images=1, budget=16, labels="nearest")
    assert made.sets["x"].rule == "nearest"


def test_an_unconditional_prior_needs_no_classes():
    data = stripes(4, (3, 12, 12))
    made = prior_report(Tiny(), {"x": data}, images=2, budget=64, strategy="adam")
    result = made.to_dict()
    assert (made.samples.shape, made.sample_classes) == ((8, 8, 3, 12, 12), None)
    assert result["sets"]["x"]["classes"] is None
    assert result["sets"]["x"]["images"][0]["class"] is None
    assert result["sets"]["x"]["backward_passes"] == 64
    assert "none needed" in Page(render(made, result)).text


def drawn(made):
    """Return everything that a report drew or found, as bytes."""
    found = made.sets["x"]
    tensors = (made.samples, made.interpolation, found.rows, found.inverted, found.mean_samples)
    values = [values for kind in found.values.values() for values in kind.values()]
    return [np.asarray(t).tobytes() for t in (*tensors, *values)]


def test_the_seed_alone_decides(prior, heldout):
    def of(seed):
        return drawn(prior_report(prior, {"x": heldout}, images=2, budget=16, seed=seed))

    first, again, other = of(1), of(1), of(2)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_a_report_goes_on_from_its_checkpoints(prior, heldout, tmp_path):
    asked = {"images": 2, "budget": 32, "checkpoints": tmp_path}
    first = prior_report(prior, {"x": heldout}, **asked)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert drawn(prior_report(prior, {"x": heldout}, **asked)) == drawn(first)
    with pytest.raises(CheckpointError):
        prior_report(prior, {"x": heldout}, **(asked | {"budget": 48}))


def test_the_page_needs_nothing_from_elsewhere(folder):
    content = (folder / "prior.html").read_text()
    found = Page(content)
    assert not found.all("script")
    assert not found.all("link")
    sources = [tag[key] for _, tag in found.tags for key in ("src", "href", "xlink:href") if tag.get(key)]
    assert len(sources) > 20
    assert [s for s in sources if not s.startswith(("data:image/png;base64,", "#"))] == []
    assert not re.search(r"@import|url\((?!#)", content)
    assert set(re.findall(r"https?://[^\s\"'<>]+", content)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    identities = [tag["id"] for _, tag in found.tags if "id" in tag]
    assert len(identities) == len(set(identities))
    targets = {s[1:] for s in sources if s.startswith("#")}
    assert targets <= set(identities)


def test_the_page_suits_dark_mode_and_phones_and_describes_its_pictures(folder):
    content = (folder / "prior.html").read_text()
    found = Page(content)
    assert "prefers-color-scheme: dark" in content
    assert any(meta.get("name") == "viewport" for meta in found.all("meta"))
    assert all(image["alt"] for image in found.all("img"))
    assert len(found.all("img")) == 2 + 2 * 3 * 3


def test_the_page_says_what_was_found(folder, result):
    text = Page((folder / "prior.html").read_text()).text
    for name, found in result["sets"].items():
        psnr, gain = found["figures"]["inversion"]["psnr"]["mean"], found["gain"]
        side = "above" if gain["mean"] >= 0 else "below"
        assert (
            f"{name} : inverted at {psnr:.1f} dB PSNR, {abs(gain['mean']):.1f} dB {side} the strongest "
            f"control, the {gain['control']}."
        ) in text
    assert "nearest class" in text
    assert "licence: MIT" in text


def test_without_lpips_the_page_says_how_to_get_it(prior, heldout, monkeypatch):
    monkeypatch.setattr(prior_inversion, "load_lpips", lambda: None)
    made = prior_report(prior, {"x": heldout}, images=1, budget=16)
    result = made.to_dict()
    assert "lpips" not in result["sets"]["x"]["figures"]["inversion"]
    assert result["sets"]["x"]["gain"]["low"] is None
    page = render(made, result)
    assert "ggl weights fetch lpips-alexnet" in page
    assert page == render(made, result)


def test_a_hostile_data_set_breaks_nothing(report):
    hostile = "<img src=x onerror=alert(1)>"
    sets = {"x": dataclasses.replace(report.sets["clothes"], data=hostile)}
    made = dataclasses.replace(report, sets=sets, settings={**report.settings, "prior": hostile})
    found = Page(render(made, made.to_dict()))
    assert all("onerror" not in image for image in found.all("img"))
    assert hostile in found.text


BAD = {
    "no set": ({}, {}, "expected at least one data set to invert, found none"),
    "name": (
        {"a/b": stripes()},
        {},
        "data set 'a/b': expected a name of letters, digits, '.', '_' and '-', for a file's name",
    ),
    "case": (
        {"a": stripes(), "A": stripes()},
        {},
        "expected names of data sets that differ by more than upper and lower case",
    ),
    "shape": (
        {"x": stripes(2, (1, 28, 28))},
        {},
        "data set 'x': expected images of the shape that prior fashion-dcgan32 gives, (1, 32, 32); "
        "found (1, 28, 28); load it with image_shape= and fit=",
    ),
    "too many": (
        {"x": stripes(2)},
        {"images": 3},
        "data set 'x': expected 1 to 2 images to invert, as it has; found 3",
    ),
    "none": (
        {"x": stripes(2)},
        {"images": 0},
        "data set 'x': expected 1 to 2 images to invert, as it has; found 0",
    ),
    "own": (
        {"x": stripes(2)},
        {"images": 2, "labels": "own"},
        "prior fashion-dcgan32 has the labels 0 to 9, found 21",
    ),
    "rule": (
        {"x": stripes(2)},
        {"labels": "nearst"},
        "no label rule is named 'nearst'; did you mean 'nearest'? known: auto, own, nearest",
    ),
    "budget": (
        {"x": stripes(2)},
        {"images": 2, "budget": 3},
        "a budget of 3 evaluations is below one generation of 4; give at least 4",
    ),
    "strategy": ({"x": stripes(2)}, {"images": 2, "strategy": "adam:starts=0"}, None),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_before_any_search(case, prior, tmp_path):
    sets, asked, message = BAD[case]
    with pytest.raises(InputError) as caught:
        prior_report(prior, sets, checkpoints=tmp_path, **asked)
    assert "\n" not in str(caught.value)
    assert message is None or str(caught.value) == message
    assert not list(tmp_path.iterdir())


def plan(out, *data, **options):
    return PriorPlan(("fashion-dcgan32",), data, out, images=2, budget=32, device="cpu", **options)


def test_a_run_names_its_sets_prints_a_table_and_is_not_overwritten(tmp_path, capsys):
    np.savez(
        tmp_path / "dots.npz", images=255 * np.eye(16, dtype=np.uint8)[None].repeat(4, 0), labels=[0, 0, 1, 1]
    )
    out = tmp_path / "out"
    asked = plan(out, "in=fashion-mnist-heldout", str(tmp_path / "dots.npz"), fit="resize")
    run_prior_report(asked)
    printed = capsys.readouterr().out
    result = json.loads((out / "prior.json").read_text())
    assert list(result["sets"]) == ["in", "dots"]
    assert "strongest control" in printed
    assert LPIPS_NOTE in " ".join(printed.split())
    assert LPIPS_NOTE in (out / "prior.html").read_text()
    assert f"{result['sets']['in']['figures']['inversion']['psnr']['mean']:.1f}" in printed
    assert (out / "inversion-dots.png").exists()
    assert not (out / CHECKPOINTS).exists()
    with pytest.raises(InputError, match="holds a finished run already; choose another folder, or delete it"):
        run_prior_report(asked)


def test_without_data_the_priors_own_set_is_taken(tmp_path):
    run_prior_report(plan(tmp_path / "out"))
    result = json.loads((tmp_path / "out" / "prior.json").read_text())
    assert list(result["sets"]) == ["fashion-mnist-heldout"]


def test_an_unfinished_run_needs_resume_and_resume_needs_one(tmp_path):
    with pytest.raises(CheckpointError, match="holds no unfinished run to resume; leave --resume out"):
        run_prior_report(plan(tmp_path), resume=True)
    (tmp_path / CHECKPOINTS).mkdir()
    with pytest.raises(InputError, match="holds an unfinished run; add --resume, or choose another folder"):
        run_prior_report(plan(tmp_path))
    run_prior_report(plan(tmp_path), resume=True)
    assert (tmp_path / "prior.html").exists()
    assert not (tmp_path / CHECKPOINTS).exists()


def named_folder(tmp_path):
    (tmp_path / "faces" / "alice").mkdir(parents=True)
    Image.new("L", (32, 32)).save(tmp_path / "faces" / "alice" / "1.png")
    return str(tmp_path / "faces")


def test_class_folders_with_names_need_the_nearest_classes(tmp_path):
    asked = plan(tmp_path / "out", named_folder(tmp_path))
    with pytest.raises(InputError, match=r"found 'alice'; or add --labels nearest"):
        run_prior_report(asked)
    assert not (tmp_path / "out").exists()
    asked = dataclasses.replace(asked, images=1, labels="nearest")
    run_prior_report(asked)
    result = json.loads((tmp_path / "out" / "prior.json").read_text())
    assert result["sets"]["faces"]["classes"] == "nearest"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priors": ("nope",)}, "no prior is named 'nope'"),
        ({"priors": ("fashion-dcgan32",) * 2}, "expected every prior once, found one twice"),
        (
            {"priors": ("fashion-dcgan32", "cifar10-gan32")},
            "expected priors of as many channels, found 1 of fashion-dcgan32 and 3 of cifar10-gan32",
        ),
        ({"data": ("a=fashion-mnist-heldout", "a=x.npz")}, r"two data sets are named 'a': .*NAME=x\.npz"),
        ({"data": ("a=missing.npz",)}, r"missing\.npz: expected an npz file"),
        ({"images": 2000}, "expected 1 to 1000 images to invert, as it has; found 2000"),
        ({"device": "tpu"}, "expected a device such as cpu, cuda, cuda:1 or auto; found 'tpu'"),
    ],
)
def test_a_run_that_cannot_start_leaves_nothing(options, message, tmp_path):
    asked = dataclasses.replace(plan(tmp_path / "out", "fashion-mnist-heldout"), **options)
    with pytest.raises((InputError, RuntimeError), match=message) as caught:
        run_prior_report(asked)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def speed(**options):
    given = {
        "device": "cpu",
        "threads": 1,
        "repeats": 1,
        "seconds": 1.0,
        "limit": 60.0,
        "formats": True,
    }
    return argparse.Namespace(**(given | options))


def test_the_speed_table_has_a_figure_for_every_heading():
    threads = torch.get_num_threads()
    found = priors.measure(speed(threads=threads), "fashion-dcgan32", 2)
    assert found["pixels"] == 32
    what = ["forward rate", "backward rate"]
    what += [f"{layout} {mode}" for layout in priors.FORMATS for mode in ("forward", "backward")]
    assert min(found[key] for key in what) > 0
    assert 0 <= found["load"] <= found["forward memory"] <= found["backward memory"] < found["base"]
    for ratios in (False, True):
        cells = priors.row("fashion-dcgan32", 2, found, ratios)
        assert len(cells) == len(priors.HEADINGS) + len(priors.RATIOS) * ratios
        assert "" not in cells


def test_the_speed_table_says_what_took_too_long():
    found = priors.in_fresh_process(speed(limit=0.05), "fashion-dcgan32", 1)
    assert found == {"failed": "not done after 0.05 s"}
    assert len(priors.row("x", 1, found, ratios=True)) == len(priors.HEADINGS) + len(priors.RATIOS)


def test_the_speed_table_says_that_a_process_failed(monkeypatch):
    monkeypatch.setattr(priors, "sys", SimpleNamespace(executable=shutil.which("false")))
    assert priors.in_fresh_process(speed(), "x", 1) == {"failed": "exit status 1"}


def test_calls_take_turns_when_timed():
    calls = []
    found = priors.timed(
        [lambda: calls.append("a"), lambda: calls.append("b")], speed(repeats=3), torch.device("cpu")
    )
    assert calls == ["a", "b"] * 4
    assert [len(seconds) for seconds in found] == [3, 3]
