"""What was assumed of a prior and what is doubtful of it: in the result, on the page, once as a warning."""

import warnings

import pytest

import ggl
from ggl.captures.reconstruct import reconstruct
from ggl.generators import load_prior
from ggl.generators.plausibility import ImplausiblePriorWarning

DOUBT = "neighboring pixels of its samples are unrelated: pictures of noise"


@pytest.fixture(scope="module")
def doubtful():
    prior = load_prior("pixels:1x32x32")
    prior.is_noise, prior.assumed = False, ("tanh at the end (range=)",)
    return prior


@pytest.fixture(scope="module")
def victim():
    return ggl.load_victim("mlp", in_channels=1, num_classes=10, image_size=32, seed=0)


def run(prior, victim, data):
    options = {"budget": 20, "ceiling_budget": 20, "strategies": ["random"]}
    images, labels = data.images[:2], data.labels[:2]
    return ggl.audit(victim, images, labels, prior=prior, decoys=(data.images, data.labels), **options)


def test_an_audit_warns_once_and_says_so_in_its_result(doubtful, victim, data, tmp_path):
    with pytest.warns(ImplausiblePriorWarning, match=f"prior pixels:1x32x32 is doubtful: {DOUBT}") as found:
        report = run(doubtful, victim, data)
    assert len(found) == 1
    settings = report.save(tmp_path)["settings"]
    assert settings["prior_assumed"] == ["tanh at the end (range=)"]
    assert settings["prior_doubts"] == [DOUBT]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Assumed of the prior, since its file does not say: tanh at the end (range=)." in page
    assert f"<strong>The prior is doubtful:</strong> {DOUBT}." in page


def test_a_plausible_prior_is_no_subject(prior, victim, data, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = run(prior, victim, data)
    settings = report.save(tmp_path)["settings"]
    assert (settings["prior_assumed"], settings["prior_doubts"]) == ([], [])
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Assumed of the prior" not in page
    assert "doubtful" not in page


def test_a_reconstruction_says_so_too(doubtful, victim, data):
    shared = ggl.GradientOracle(victim).observe(data.images[:1], data.labels[:1])
    with pytest.warns(ImplausiblePriorWarning) as found:
        result = reconstruct(
            victim,
            shared,
            prior=doubtful,
            pool=(data.images, data.labels),
            strategy="random",
            controls=2,
            budget=20,
        )
    assert len(found) == 1
    assert result.settings["prior_doubts"] == [DOUBT]
    assert result.settings["prior_assumed"] == ["tanh at the end (range=)"]
