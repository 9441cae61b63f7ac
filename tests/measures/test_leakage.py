"""From reconstructions to a leak score: hand-computed cases, and what counts as a leak."""

import numpy as np
import pytest
import torch

from ggl.measures.leakage import Scores, identification, identifies, leak_score, measures, rank, score


def test_the_leak_score_is_a_ratio_of_sums_against_the_strongest_control():
    attack, ceiling = np.array([0.2, 0.4, 0.3]), np.array([0.1, 0.1, 0.1])
    controls = {"weak": np.array([2.0, 2.0, 2.0]), "strong": np.array([0.5, 0.9, 0.7])}
    found = leak_score(attack, ceiling, controls)
    assert found.control == "strong"
    assert found.interval.mean == pytest.approx((0.3 + 0.5 + 0.4) / (0.4 + 0.8 + 0.6))


def test_an_attack_as_good_as_the_ceiling_scores_one_and_as_the_control_zero():
    control, ceiling = np.linspace(1, 2, 10), np.linspace(0.1, 0.2, 10)
    assert leak_score(ceiling, ceiling, {"c": control}).interval.mean == pytest.approx(1)
    none = leak_score(control, ceiling, {"c": control})
    assert none.interval.mean == pytest.approx(0)
    assert not none.leaks


def test_a_leak_needs_more_than_one_lucky_image():
    random = np.random.default_rng(0)
    control, ceiling = np.full(10, 1.0), np.full(10, 0.1)
    lucky = np.where(np.arange(10) == 0, 0.1, 1.0)
    steady = 0.6 + 0.1 * random.standard_normal(10)
    assert not leak_score(lucky, ceiling, {"c": control}).leaks
    assert leak_score(steady, ceiling, {"c": control}).leaks


def test_a_ceiling_below_the_control_gives_no_score():
    """Both differences are negative then, and their ratio would praise an attack worse than chance."""
    random = np.random.default_rng(2)
    control, ceiling, attack = (v + 0.001 * random.standard_normal(10) for v in (0.05, 0.08, 0.105))
    found = leak_score(attack, ceiling, {"class mean": control})
    assert np.isnan(found.interval.mean)
    assert not found.leaks


@pytest.mark.slow("a simulation of many audits")
def test_chance_is_rarely_called_a_leak():
    """Of attacks that draw from the control's own distribution, few are called leaks.

    A one-sided 2.5 % test gives 5 of 200 on average; 14 and more have probability below 1e-3.
    """
    random = np.random.default_rng(1)
    called = 0
    for _ in range(200):
        attack, control = random.gamma(4, 1, (2, 12))
        called += leak_score(attack, np.full(12, 0.01), {"c": control}).leaks
    assert called < 14


def test_ranks_count_nearer_decoys():
    private, decoys = torch.zeros(1, 2, 2), torch.stack([torch.full((1, 2, 2), v) for v in (0.2, 0.5, 1.0)])
    assert rank(torch.zeros(1, 1, 2, 2), private, decoys) == 1
    assert rank(torch.full((1, 1, 2, 2), 0.3), private, decoys) == 3
    assert rank(torch.full((1, 1, 2, 2), 0.9), private, decoys) == 4
    both = torch.stack([torch.full((1, 2, 2), 0.9), torch.full((1, 2, 2), 0.3)])
    assert rank(both, private, decoys) == 4


def test_an_exact_copy_among_the_decoys_does_not_hide_a_found_image():
    private = torch.rand(1, 4, 4)
    assert rank(private[None], private, torch.stack([private, 1 - private])) == 1


def test_random_reconstructions_rank_at_chance():
    """The mean percentile of 400 random ranks has a standard deviation of 0.29 / 20."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand((400, 21, 1, 11, 11), generator=random)
    private, decoys = images[:, 0], [x[1:] for x in images]
    scores = score(torch.rand((400, 1, 11, 11), generator=random), private, decoys, {})
    percentile = identification(scores)["identification_percentile"].mean
    assert abs(percentile - 0.5) < 4 * 0.29 / 20


def test_identification_counts_top_ranks():
    scores = Scores({}, np.array([1, 1, 5, 11]), np.array([10, 10, 10, 10]))
    found = identification(scores)
    assert found["identification"].mean == 0.5
    assert found["identification_top10"].mean == 0.75
    assert found["identification_percentile"].mean == pytest.approx((0 + 0 + 0.4 + 1.0) / 4)


@pytest.mark.parametrize(
    ("found", "n", "expected"), [(0, 10, False), (1, 10, False), (2, 10, True), (1, 1, False)]
)
def test_identifying_needs_two_images_and_more_than_chance(found, n, expected):
    ranks = np.array([1] * found + [50] * (n - found))
    assert identifies(Scores({}, ranks, np.full(n, 99))) is expected


def test_two_of_ten_is_chance_among_few_decoys():
    ranks = np.array([1, 1] + [2] * 8)
    assert not identifies(Scores({}, ranks, np.full(10, 4)))


def test_optional_measures_are_left_out_where_they_are_not_at_hand():
    assert set(measures(None, None)) == {"mse", "ssim_error"}
    assert "lpips" in measures(None, lambda a, b: a[:, 0, 0, 0])
    assert "feature_distance" in measures(lambda a, b: a[:, 0, 0, 0], None)


def test_an_exact_reconstruction_has_a_finite_psnr():
    """Which is what the analytic attack returns; the mean over images must exist."""
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    scores = score(images, images, [images[1:], images[:1]], measures(None, None))
    assert scores.values["psnr"].tolist() == [100.0, 100.0]
    assert scores.ranks.tolist() == [1, 1]
