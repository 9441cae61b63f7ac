import dataclasses
import json

import numpy as np
import pytest
import torch
from html_pages import Page

from ggl.base.errors import InputError
from ggl.commands.prior_report import CHECKPOINTS, PriorPlan, run_prior_report
from ggl.datasets.loading import Dataset, load_dataset
from ggl.generators import Prior, load_prior
from ggl.measures.statistics import bootstrap_mean, paired_test
from ggl.prior_reports.comparison import PriorComparison, check_channels
from ggl.prior_reports.comparison_page import render_comparison
from ggl.prior_reports.rate import decoding_rates
from ggl.prior_reports.report import prior_report

ASKED = {"images": 6, "budget": 32}


class Flat(Prior):
    """Unconditional, gray, 16 px; a latent is the whole image's brightness."""

    name, licence, latent_dim, image_shape = "flat", "MIT", 2, (1, 16, 16)

    def decode(self, z, labels=None):
        return torch.sigmoid(z[:, :1])[:, :, None, None].expand(-1, 1, 16, 16)


@pytest.fixture(scope="module")
def reports():
    data = load_dataset("fashion-mnist-heldout")
    small = Dataset("small", torch.nn.functional.avg_pool2d(data.images, 2), data.labels, data.num_classes)
    return {
        "clothes": prior_report(load_prior("fashion-dcgan32"), {"x": data}, **ASKED),
        "flat": prior_report(Flat(), {"x": small}, **ASKED),
    }


@pytest.fixture(scope="module")
def comparison(reports):
    return PriorComparison(reports)


def test_errors_are_compared_at_the_smallest_size_image_by_image(comparison, reports):
    result = comparison.to_dict()
    assert result["settings"]["compared_at"] == [16, 16]
    wanted = {}
    for name, report in reports.items():
        found, image = (x.double().numpy() for x in (report.sets["x"].inverted, report.sets["x"].images))
        if name == "clothes":
            found, image = (x.reshape(-1, 1, 16, 2, 16, 2).mean((3, 5)) for x in (found, image))
        wanted[name] = -10 * np.log10(((found - image) ** 2).mean((1, 2, 3)))
    figures = result["sets"]["x"]["priors"]
    for name, values in wanted.items():
        assert figures[name]["images"] == pytest.approx(values, abs=1e-4)
        assert figures[name]["psnr"] == bootstrap_mean(figures[name]["images"]).to_dict()
    assert result["sets"]["x"]["best"] == "clothes"
    assert figures["clothes"]["behind"] is None
    behind = wanted["clothes"] - wanted["flat"]
    assert figures["flat"]["behind"]["mean"] == pytest.approx(behind.mean(), abs=1e-4)
    assert figures["flat"]["behind"]["p_value"] == pytest.approx(paired_test(*wanted.values()))


def test_all_but_the_timing_is_the_same_again(comparison, reports):
    again = PriorComparison(dict(reports)).to_dict() | {"timing": None}
    assert again == comparison.to_dict() | {"timing": None}
    json.dumps(comparison.to_dict(), allow_nan=False)


def test_the_page_names_the_best_links_every_report_and_shows_all_inversions(comparison):
    page = Page(render_comparison(comparison, comparison.to_dict()))
    assert "x : clothes comes nearest, at" in page.text
    links = [tag["href"] for tag in page.all("a")]
    assert {"prior00/prior.html", "prior01/prior.html"} <= set(links)
    assert len(page.all("img")) == 3 * ASKED["images"]
    assert all(image["alt"] for image in page.all("img"))


def test_reports_that_differ_in_more_than_their_priors_are_refused(reports):
    def changed(name, **fields):
        return {**reports, name: dataclasses.replace(reports[name], **fields)}

    with pytest.raises(InputError, match="expected reports on at least two priors to compare, found one"):
        PriorComparison({"flat": reports["flat"]})
    settings = {**reports["flat"].settings, "seed": 5, "budget": 9}
    with pytest.raises(InputError, match="priors alone; the settings budget, seed differ too"):
        PriorComparison(changed("flat", settings=settings))
    sets = {"x": dataclasses.replace(reports["flat"].sets["x"], rows=torch.arange(6) + 100)}
    with pytest.raises(InputError, match="priors alone; the images differ too"):
        PriorComparison(changed("flat", sets=sets))
    with pytest.raises(InputError, match="as many channels, found 1 of clothes and 3 of flat"):
        check_channels({"clothes": 1, "flat": 3})


def test_rates_are_of_images_and_of_gradients():
    rates = decoding_rates(Flat(), torch.device("cpu"))
    assert set(rates) == {"forward", "forward and backward"}
    assert all(rate > 64 for rate in rates.values())


def test_the_command_compares_priors_and_goes_on_where_it_was_stopped(ggl, tmp_path, monkeypatch):
    module = (
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, nz=4):\n"
        "        super().__init__()\n        self.nz = nz\n        self.main = nn.Linear(nz, 256)\n\n"
        "    def forward(self, z):\n        return self.main(z).tanh().view(-1, 1, 16, 16)\n"
    )
    (tmp_path / "small_nets.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    own = "small_nets:Net,weights=own,range=tanh"
    out = tmp_path / "out"
    asked = ("prior-report", "fashion-dcgan32", own, "--out", out, "--images", 2, "--budget", 16)
    code, output, error = ggl(
        *asked, "--data", "fashion-mnist-heldout", "--fit", "resize", "--labels", "auto"
    )
    assert (code, error.count("Traceback")) == (0, 0)
    assert "the best" in output
    assert {path.name for path in out.iterdir()} == {"prior00", "prior01", "priors.html", "priors.json"}
    result = json.loads((out / "priors.json").read_text())
    assert list(result["priors"]) == ["fashion-dcgan32", own]
    plan = PriorPlan(("fashion-dcgan32", own), (), out, images=2, budget=16, device="cpu", fit="resize")
    with pytest.raises(InputError, match="holds a finished run already"):
        run_prior_report(plan)
    again = dataclasses.replace(plan, out=tmp_path / "again")
    (again.out / CHECKPOINTS).mkdir(parents=True)
    run_prior_report(again, resume=True)
    found = json.loads((again.out / "priors.json").read_text())
    assert found["sets"] == result["sets"]
    assert not (again.out / CHECKPOINTS).exists()
