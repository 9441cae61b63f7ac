"""Reconstruction without truth: matches and a gap, never a score."""

import json

import pytest
import torch

import ggl
from ggl.audits.controls import noise_gradient
from ggl.base.errors import GradientError, InputError
from ggl.captures.reconstruct import reconstruct


@pytest.fixture(scope="module")
def victim():
    return ggl.load_victim("mlp", in_channels=1, num_classes=10, image_size=32, seed=0)


@pytest.fixture(scope="module")
def run(data, prior, victim):
    """Reconstruct an update, by default that of two images."""

    def call(shared=None, **options):
        rows = [11, 28]
        own = ggl.GradientOracle(victim).observe(data.images[rows], data.labels[rows])
        settings = {"prior": prior, "pool": (data.images, data.labels), "batch_size": 2, "budget": 240}
        return reconstruct(victim, shared or own, **{**settings, **options})

    return call


@pytest.fixture(scope="module")
def found(run):
    return run(strategy="adam:starts=2")


@pytest.mark.slow("thirteen attacks")
def test_a_real_update_stands_out_from_its_controls(found):
    assert found.results[0].labels.tolist() == [1, 8]
    assert found.stands_out
    assert found.gap.low > 0
    assert not found.settings_doubtful
    assert found.matches.shape == (13, 13)
    gaps = found.gaps()
    assert gaps[0] == pytest.approx(found.gap.mean)
    assert gaps[1:7].min() > gaps[7:].max()


@pytest.mark.slow("thirteen attacks")
def test_nothing_is_scored(found):
    result = found.to_dict()
    assert "leak_score" not in json.dumps(result)
    captured, *others = result["updates"]
    controls = [other["match_to_captured"] for other in others if other["update"].startswith("control")]
    assert len(controls) == 6
    assert result["control_gap"]["mean"] == pytest.approx(sum(controls) / 6 - result["match"], abs=1e-9)
    assert captured["match_to_captured"] == captured["match_to_own"] == result["match"]


@pytest.mark.slow("thirteen attacks")
def test_noise_does_not_stand_out_and_the_settings_are_doubted(run, data, victim):
    own = ggl.GradientOracle(victim).observe(data.images[:2], data.labels[:2])
    noise = noise_gradient(own, torch.Generator().manual_seed(0))
    found = run(noise, strategy="adam:starts=2", labels=torch.tensor([1, 8]))
    assert not found.stands_out
    assert found.settings_doubtful
    assert found.gap.mean < found.gaps()[1:7].min()


@pytest.mark.slow("thirteen attacks, twice")
def test_the_same_twice(run):
    one, two = (run(strategy="random", budget=40) for _ in range(2))
    assert torch.equal(one.results[0].images, two.results[0].images)
    assert one.to_dict() | {"timing": 0} == two.to_dict() | {"timing": 0}


@pytest.mark.slow("thirteen attacks")
def test_what_is_saved(found, tmp_path):
    result = found.save(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert len(list((tmp_path / "images").glob("*.png"))) == 13 * 2
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "No leak score is given" in page
    assert page.count("<img") == 13 * 2
    assert "http" not in page


def test_bad_input(run, data):
    with pytest.raises(InputError, match="at least 2 controls, found 1"):
        run(controls=1)
    with pytest.raises(InputError, match="expected 2 images of class 1 for a control, found fewer"):
        run(
            labels=torch.tensor([1, 1]),
            pool=(data.images[10:12], data.labels[10:12]),
            strategy="random",
            budget=16,
        )
    with pytest.raises(GradientError, match="captured update is zero"):
        run({name: torch.zeros(2) for name in ("a", "b")})
