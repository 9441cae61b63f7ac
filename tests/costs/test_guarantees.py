"""What guarantees allow: values by hand, exact attackers below and close, and where nothing is proved."""

import math
import re
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import ggl
from ggl.base.errors import InputError
from ggl.costs.guarantees import concentrated, gaussian, guarantee, pure, within_curve
from ggl.defenses import load_defense
from ggl.defenses.mechanism import Release

NORMAL = NormalDist()
BASELINES = (1e-4, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999)


def most(defense, candidates=100, **given):
    return guarantee(defense, **{"layers": 10, **given}).identification(candidates)


# By hand


@pytest.mark.parametrize(
    ("defense", "given", "mu"),
    [
        ("dp-sgd:1,1", {}, 1.0),
        ("dp-sgd:4,0.5", {"batch_size": 7}, 2.0),
        ("dp-sgd:1,2", {"releases": 4, "rounds": 4}, 1.0),
        ("fed-cdp:4,6", {"layers": 9}, 0.5),
        ("fed-cdp:4,6", {"layers": 9, "releases": 4}, 1.0),
        ("clip:3+noise:2", {"layers": 77, "batch_size": 5}, 1.5),
        ("clip-layer:3+noise:2", {"layers": 4}, 3.0),
        ("clip-layer:3+clip:1+noise:2", {"layers": 4}, 0.5),
        ("clip:1+prune:0.5+noise:2+noise:1", {}, 0.5),
        ("top-k:0.1+clip:1+noise:2", {}, 0.5),
        ("clip:1+noise:0.5+prune:0.9+qsgd:2", {}, 2.0),
        ("dynamic-dp:fixed,sigma=2", {"layers": 16}, 2.0),
        # σ of the round: 15 - 10.15 t/T; the bound, whatever it is, cancels.
        ("dynamic-dp:linear", {"layers": 16, "round": 5, "rounds": 10}, 4 / 9.925),
        ("dynamic-dp:linear,clipping=decaying", {"layers": 16, "round": 5, "rounds": 10}, 4 / 9.925),
        (
            "dynamic-dp:linear",
            {"layers": 1, "releases": 2, "rounds": 2},
            math.hypot(1 / 15, 1 / 9.925),
        ),
    ],
)
def test_gaussian_noise_by_hand(defense, given, mu):
    found = guarantee(defense, **{"layers": 10, **given})
    assert (found.kind, found.mu) == ("formal", pytest.approx(mu, rel=1e-12))
    for n in (2, 10, 100):
        by_hand = NORMAL.cdf(NORMAL.inv_cdf(1 / n) + mu)
        assert found.identification(n) == pytest.approx(by_hand, rel=1e-9)


def test_one_release_of_dp_sgd_in_figures():
    """Φ(-2.32635 + 1) = 0.09236 and Φ(0 + 1) = 0.84134, by any table of the normal distribution."""
    assert most("dp-sgd:1,1") == pytest.approx(0.09236, abs=1e-5)
    assert most("dp-sgd:1,1", 2) == pytest.approx(0.84134, abs=1e-5)


def test_laplacian_noise_by_hand():
    """One coordinate: ε = 1 against no image, 2 between two; of 2 candidates 1 - 1 / (2 e) is the least."""
    found = guarantee("clip:3+laplace:3", layers=1, coordinates=1)
    assert (found.epsilon, found.rho) == (1.0, 0.5)
    assert found.identification(2) == pytest.approx(1 - 1 / (2 * math.e), rel=1e-12)
    narrow = guarantee("clip:0.3+laplace:3", layers=1, coordinates=1)
    assert narrow.identification(4) == pytest.approx(0.25 * math.exp(0.1), rel=1e-12)
    # Of many coordinates the L1 norm, √d times the L2 norm, says nothing, and ρ does.
    many = guarantee("clip:1+laplace:1", layers=1, coordinates=15_000, releases=4)
    assert (many.epsilon, many.rho) == (pytest.approx(4 * math.sqrt(15_000)), 2.0)
    by_hand = math.exp(-((math.sqrt(math.log(1000)) - math.sqrt(2)) ** 2))
    assert many.identification(1000) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0, 3.0])
def test_the_posterior_alone_never_bounds_more(epsilon):
    """e^2ε / (e^2ε + N - 1) is the same at N = 1 + e^ε, and larger at any other."""
    for n in (2, 3, 10, 100):
        assert pure(1 / n, epsilon) <= math.exp(2 * epsilon) / (math.exp(2 * epsilon) + n - 1) + 1e-15
    n = 1 + math.exp(epsilon)
    assert pure(1 / n, epsilon) == pytest.approx(math.exp(epsilon) / n, rel=1e-12)
    assert math.exp(2 * epsilon) / (math.exp(2 * epsilon) + n - 1) == pytest.approx(math.exp(epsilon) / n)


# Against exact attackers


@pytest.mark.parametrize("mu", [0.1, 1.0, 2.5])
def test_two_opposite_images_are_told_apart_exactly_as_often(mu):
    """Signals ±C: the sign is the best test and right with Φ(C/σ). No smaller sensitivity would hold."""
    assert gaussian(0.5, mu) == pytest.approx(NORMAL.cdf(mu), rel=1e-12)


@pytest.mark.parametrize("mu", [0.2, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("n", [3, 10, 100])
def test_orthogonal_candidates_come_close(mu, n):
    """The best of n tests is right with E[Φ(z + μ)^(n - 1)], and 2C, the distance of pairs, would be far."""

    def density(z):
        return NORMAL.pdf(z) * NORMAL.cdf(z + mu) ** (n - 1)

    exact = quad(density, -9, 9, limit=200)[0]
    assert 0.86 * gaussian(1 / n, mu) < exact < gaussian(1 / n, mu) < gaussian(1 / n, 2 * mu)


def rate_of_the_best_attack(defense, candidates, draws, loss):
    """Share a random candidate many times; guess the one whose clipped gradient fits best."""
    random = torch.Generator().manual_seed(0)
    known, right = load_defense(defense), 0
    for draw in range(draws):
        truth = draw % len(candidates)
        shared = known.protect({"a": candidates[truth]}, random)["a"]
        right += int(loss(shared - candidates).sum(1).argmin()) == truth
    return right / draws


@pytest.mark.parametrize(
    ("defense", "n"), [("dp-sgd:1,0.5", 10), ("clip:1+noise:0.5", 10), ("dp-sgd:1,1", 2)]
)
def test_the_defenses_own_releases_stay_below_and_come_close(defense, n):
    candidates = torch.eye(n, dtype=torch.float64) if n > 2 else torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    draws = 2000
    rate = rate_of_the_best_attack(defense, candidates, draws, torch.square)
    allowed = most(defense, n, layers=1)
    spread = 3 * math.sqrt(allowed * (1 - allowed) / draws)
    assert 0.8 * allowed < rate < allowed + spread


def test_laplacian_releases_stay_below():
    """Opposite images of one coordinate: right with 1 - e^-ε / 2, the bound itself."""
    candidates = torch.tensor([[2.0], [-2.0]], dtype=torch.float64)
    rate = rate_of_the_best_attack("clip:2+laplace:2", candidates, 4000, torch.abs)
    assert rate == pytest.approx(most("clip:2+laplace:2", 2, layers=1, coordinates=1), abs=0.025)


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 1.5, 4.0])
@pytest.mark.parametrize("baseline", BASELINES)
def test_both_bounds_of_laplacian_noise_hold_of_its_own_trade_off(baseline, epsilon):
    """Of one coordinate shifted by ε b, the likelihood ratio's tests: {x > t} has P = 1 - F(t - ε)."""

    def tail(t):
        return 0.5 * math.exp(-t) if t > 0 else 1 - 0.5 * math.exp(t)

    threshold = -math.log(2 * baseline) if baseline < 0.5 else math.log(2 * (1 - baseline))
    exact = tail(threshold - epsilon)
    assert exact <= pure(baseline, epsilon) + 1e-12
    assert exact <= concentrated(baseline, epsilon**2 / 2) + 1e-12


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_curve_of_epsilons_gives_the_trade_off_back(baseline):
    """δ(ε) = Φ(μ/2 - ε/μ) - e^ε Φ(-μ/2 - ε/μ) of a Gaussian release (Balle and Wang, 2018)."""
    mu = 1.3
    curve = [
        (e, NORMAL.cdf(mu / 2 - e / mu) - math.exp(e) * NORMAL.cdf(-mu / 2 - e / mu))
        for e in np.linspace(0, 12, 4000)
    ]
    assert within_curve(baseline, curve) == pytest.approx(gaussian(baseline, mu), rel=2e-3)


@pytest.mark.parametrize("rho", [1e-3, 0.3, 2.0, 30.0])
def test_concentrated_bounds_hold_of_gaussians_and_grow_with_the_baseline(rho):
    """N(0, 1) against N(√(2ρ), 1) is ρ-concentrated, exactly."""
    found = [concentrated(baseline, rho) for baseline in BASELINES]
    assert found == sorted(found)
    assert all(a >= gaussian(k, math.sqrt(2 * rho)) for k, a in zip(BASELINES, found, strict=True))
    assert concentrated(1.0, rho) == 1.0


# Training with subsampling


@pytest.mark.slow("composes by PRV at nine deltas")
def test_subsampled_training_allows_less_and_never_less_than_the_exact_attack():
    """One step: of a mixture, events {x > t} have P = (1 - q) κ + q Φ(Φ⁻¹(κ) + 1/σ)."""
    found = guarantee("dp-sgd:1,1", layers=1, sample_rate=0.5, rounds=1)
    assert found.mu is None
    for n in (2, 10, 100):
        exact = 0.5 / n + 0.5 * gaussian(1 / n, 1.0)
        assert exact <= found.identification(n) < min(1.3 * exact, gaussian(1 / n, 1.0))


@pytest.mark.parametrize("defense", ["clip:1+laplace:1", "clip:1+noise:1"])
def test_subsampling_is_refused_where_no_accountant_knows_it(defense):
    """Leaving an image out of a batch that is clipped as a whole can move it by twice the clip."""
    with pytest.raises(InputError, match="every example is clipped and the noise is Gaussian"):
        guarantee(defense, layers=1, sample_rate=0.5)


# Where nothing is proved


@pytest.mark.parametrize(
    ("defense", "kind", "reason"),
    [
        ("none", None, "no noise of a known scale"),
        ("noise:0.1", None, "gradient of bounded norm"),
        ("clip:1", None, "no noise of a known scale"),
        ("clip:1+noise:0", None, "no noise of a known scale"),
        ("dp-sgd:1,0", None, "no noise of a known scale"),
        ("noise:1+clip:1", None, "no noise of a known scale"),
        ("clip:1+top-k:0.1+noise:1", None, "no noise of a known scale"),
        ("clip:1+noise:1+top-k:0.1", None, "top-k:0.1,momentum=0.9 is given the client"),
        ("dp-sgd:1,1+soteria:0.8", None, "soteria:0.8 is given the client"),
        ("dynamic-dp:linear,clipping=median", "nominal", "depend on the data"),
        ("dynamic-dp:linear,clipping=l2-max", "nominal", "depend on the data"),
        ("dynamic-dp:linear,clipping=median+prune:0.9", "nominal", "depend on the data"),
    ],
)
def test_no_bound_is_given_where_none_is_proved(defense, kind, reason):
    found = guarantee(defense, layers=8)
    assert (found.kind, found.most(0.01), found.identification(100)) == (kind, None, None)
    assert reason in found.reason
    assert found.mu is found.epsilon is found.rho is found.mechanism is None


@pytest.mark.parametrize(
    "defense",
    ["dp-sgd:2,1", "fed-cdp:2,1", "dynamic-dp:linear,clip=2", "clip:2+noise:1", "clip-layer:2+noise:1"],
)
def test_what_hides_behind_the_noise_lies_in_the_ball(defense):
    """The noise is drawn again on a zero gradient, and taken off."""
    known, mechanism = load_defense(defense), load_defense(defense).mechanism(Release(layers=3))
    gradient = {name: 50 * torch.randn(40, dtype=torch.float64) for name in "abc"}
    of = [
        known.protect(g, torch.Generator().manual_seed(5))
        for g in (gradient, {name: torch.zeros_like(g) for name, g in gradient.items()})
    ]
    signal = torch.cat([of[0][name] - of[1][name] for name in "abc"]).norm()
    assert float(signal) == pytest.approx(mechanism.sensitivity, rel=1e-5)
    noise = torch.cat([of[1][name] for name in "abc"])
    assert float(noise.std()) == pytest.approx(mechanism.scale, rel=0.25)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": 0}, "at least 1 layer, found 0"),
        ({"batch_size": 0}, "at least 1 image in a batch, found 0"),
        ({"releases": 0}, "at least 1 release, found 0"),
        ({"releases": 11, "rounds": 10}, "expected 11 releases within 10 rounds, found them from 0 on"),
        ({"round": 10, "rounds": 10}, "expected 1 releases within 10 rounds, found them from 10 on"),
        ({"sample_rate": 0.0}, "expected a sample rate above 0"),
    ],
)
def test_what_is_out_of_range_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        guarantee("dp-sgd:1,1", **{"layers": 1, **given})


def test_so_are_candidates_and_baselines():
    found = ggl.guarantee("dp-sgd:1,1", layers=1)
    with pytest.raises(InputError, match="at least 2 candidates, found 1"):
        found.identification(1)
    for baseline in (0.0, 1.5, math.nan):
        with pytest.raises(InputError, match="expected a baseline above 0 and at most 1"):
            found.most(baseline)
    assert found.most(1.0) == 1.0


# The page


PAGE = (Path(__file__).parents[2] / "docs" / "guarantees.md").read_text("utf-8")


def test_the_page_holds_what_is_computed():
    rows = re.findall(r"^\| `(.+?)` \| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.M)
    assert len(rows) == 12
    for defense, layers, ratio, *bounds in rows:
        found = guarantee(defense, layers=int(layers))
        assert f"{found.mechanism.sensitivity / found.mechanism.scale:.3g}" == ratio
        assert [f"{found.identification(n):.3f}" for n in (2, 10, 100)] == bounds


def test_the_command_prints_what_the_page_shows(ggl):
    code, printed, _ = ggl("guarantee", "fed-cdp:4,6", "--layers", 8, "--candidates", 100)
    assert code == 0
    shown = " ".join(re.findall(r"^> (.*?)\\?$", PAGE, re.M))
    assert " ".join(printed.split()) == shown


@pytest.mark.parametrize("defense", ["none", "dynamic-dp:linear,clipping=median"])
def test_the_command_refuses_what_has_no_proof(ggl, defense):
    code, printed, errors = ggl("guarantee", defense)
    assert (code, printed) == (2, "")
    assert "allows no bound: " in errors


@pytest.mark.slow("composes a thousand steps by PRV at nine deltas")
def test_a_whole_training_by_its_command(ggl):
    options = ("--releases", 1000, "--rounds", 1000, "--sample-rate", 0.01)
    _, printed, _ = ggl("guarantee", "dp-sgd:1,1", *options)
    assert float(printed.split()[2]) == pytest.approx(0.030, abs=5e-4)
    assert printed.rstrip().endswith("subsampled")


@pytest.mark.parametrize(
    "command", [("guarantee",), ("epsilon", "--rounds", 9, "--sample-rate", 0.1, "--delta", 1e-5)]
)
def test_a_clip_of_every_layer_asks_how_many_there_are(ggl, command):
    code, _, errors = ggl(command[0], "fed-cdp:4,6", *command[1:])
    assert code == 2
    assert "give it, --layers 10" in errors


def test_coordinates_are_at_least_as_many_as_layers():
    with pytest.raises(InputError, match="at least as many coordinates as layers, 3, found 0"):
        guarantee("clip:1+laplace:1", layers=3, coordinates=0)
