"""Measured rates beside what a proof allows: the figures, the doubt, and where there is no bound."""

import dataclasses
import math
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from test_page import N, Page, cell, report

import ggl
from ggl.audits.allowances import (
    BLIND,
    CAPTURED,
    STATISTICS,
    CellAllowance,
    cell_allowance,
    excess,
    mean_most,
    tolerance,
)
from ggl.audits.page import render
from ggl.audits.setting import AuditSetting
from ggl.costs.guarantees import gaussian, guarantee, no_allowance
from ggl.defenses import load_defense
from ggl.defenses.privacy import FedCDP
from ggl.measures.leakage import Scores

LAYERS, CANDIDATES, CLIENTS = 144, 100, 200


class PublishedFedCDP(FedCDP):
    """Fed-CDP as it was accounted for: the sensitivity of all layers together taken for that of one."""

    def sensitivity_factor(self, layers):
        return 1.0


@pytest.fixture(scope="module")
def ranks():
    """Of the likeliest candidate's attack on σ = 6, where every layer of every gradient is at the clip.

    Candidate j has one coordinate in each layer, its own: candidates are 4 √144 from no image, under noise of
    24, and those of one layer 4.
    """
    random, found = torch.Generator().manual_seed(0), []
    for client in range(CLIENTS):
        truth = client % CANDIDATES
        gradient = torch.zeros(CANDIDATES, dtype=torch.float64)
        gradient[truth] = 10.0
        shared = FedCDP(4.0, 6.0).protect({f"layer{k}": gradient for k in range(LAYERS)}, random)
        fits = torch.stack([*shared.values()]).sum(0)
        found.append(1 + int((fits > fits[truth]).sum()))
    return np.array(found)


def attacked(ranks, allowance):
    """Return a cell whose private images have ranks, and a client each."""
    made = cell("fed-cdp:4,6", 0.05, n=len(ranks))
    scores = dataclasses.replace(made.attack, ranks=ranks)
    known = CellAllowance(allowance, np.full(len(ranks), 0.01))
    return dataclasses.replace(made, attack=scores, guarantee=known)


def test_the_sensitivity_that_leaves_out_the_layers_is_found_out(ranks):
    """By hand: the published bound is Φ(-2.326 + 1/6) = 0.0154, the honest one Φ(-2.326 + 12/6) = 0.372."""
    measured = (ranks == 1).mean()
    assert 0.2 < measured < 0.372
    made = report(attacked(ranks, guarantee(PublishedFedCDP(4.0, 6.0), layers=LAYERS)))
    found = made.to_dict()["results"][0]
    assert found["guarantee"]["most"]["identification"] == pytest.approx(0.01540, abs=1e-5)
    assert (found["guarantee"]["sensitivity"], found["guarantee"]["noise"]) == (4.0, 24.0)
    assert found["guarantee"]["exceeded"] == ["identification", "identification_top10"]
    text = " ".join(Page(render(made, made.to_dict())).text("results").split())
    assert "0.015 sensitivity 4, gaussian 24 exceeded" in text
    assert "A measurement exceeds a proof:" in render(made, made.to_dict())


def test_the_honest_sensitivity_is_not(ranks):
    made = report(attacked(ranks, guarantee("fed-cdp:4,6", layers=LAYERS)))
    found = made.to_dict()["results"][0]["guarantee"]
    assert found["most"]["identification"] == pytest.approx(gaussian(0.01, 2.0))
    assert found["sensitivity"] == pytest.approx(4 * math.sqrt(LAYERS))
    assert found["sensitivity_replace_one"] == 2 * found["sensitivity"]
    assert found["exceeded"] == []
    assert "exceeds a proof" not in render(made, made.to_dict())


def test_a_nominal_guarantee_bounds_nothing(ranks):
    made = report(attacked(ranks, guarantee("dynamic-dp:linear,clipping=median", layers=LAYERS)))
    found = made.to_dict()["results"][0]["guarantee"]
    assert found["kind"] == "nominal"
    assert "depend on the data" in found["reason"]
    numbers = ("sensitivity", "noise", "mu", "epsilon", "rho", "mechanism", "reconstruction")
    assert {found[key] for key in numbers} == {None}
    assert set(found["most"].values()) == {None}
    assert found["exceeded"] == []
    assert "nominal" in Page(render(made, made.to_dict())).text("results")


def test_the_page_has_no_column_where_nothing_is_proved():
    plain = report(cell("none", 0.02))
    assert plain.to_dict()["results"][0]["guarantee"] is None
    assert ">At most <" not in render(plain, plain.to_dict())
    unproved = cell("none", 0.02)
    known = CellAllowance(no_allowance(load_defense("none"), "no noise"), np.zeros(N))
    both = report(dataclasses.replace(unproved, guarantee=known))
    assert ">At most <" not in render(both, both.to_dict())


def test_one_hit_of_ten_exceeds_nothing():
    """By hand: 1 - 0.9846^10 = 0.1438; of three, 0.0004, without those of none, one and two."""
    one = [1.0] + [0.0] * 9
    assert excess(one, 0.0154) == pytest.approx(1 - 0.9846**10, rel=1e-9)
    three = 1 - sum(math.comb(10, k) * 0.0154**k * 0.9846 ** (10 - k) for k in range(3))
    assert excess([1.0] * 3 + [0.0] * 7, 0.0154) == pytest.approx(three, rel=1e-9)
    assert excess([0.0] * 10, 0.0154) == 1.0
    assert excess([1.0] * 10, 1.0) == 1.0
    assert excess([0.5] * 10, 0.3) == pytest.approx(excess([1.0] * 5 + [0.0] * 5, 0.3))


def test_each_image_has_its_own_number_of_candidates():
    """By hand: the mean of g(1/2) and g(1/100), and of g(1) and g(1/10) for the first ten."""
    allowance = guarantee("dp-sgd:1,1", layers=1)
    found = Scores({"mse": np.ones(2)}, np.array([1, 1]), np.array([1, 99]))
    assert mean_most(allowance, found, 1) == pytest.approx((0.841345 + 0.092362) / 2, abs=1e-6)
    assert mean_most(allowance, found, 10) == pytest.approx((1 + 0.389144) / 2, abs=1e-6)


def test_a_tolerance_is_the_least_error_that_one_guess_reaches_a_tenth_within():
    """Twenty decoys on a line, the first two close to each other and the others 10 apart."""
    decoys = torch.tensor([0.0, 0.1, *range(10, 190, 10)], dtype=torch.float64).reshape(20, 1, 1, 1)
    assert BLIND == 0.1
    # A tenth are two: 0.1 has 0 within 0.01 and 10 within 98.01, the mean has its two nearest.
    mean = float(decoys.mean())
    nearest = sorted((decoys - mean).square().flatten().tolist())[1]
    assert tolerance(decoys) == pytest.approx(min(98.01, nearest))


# What an audit asks


def asked(defense, layers=6, **clients):
    """Return the `guarantee` of a cell of two images in an audit of such clients."""
    given = {"captured": None, "statistics": False, "batch_size": 1, "round": 0, "rounds": 10_000, **clients}
    audit = Mock(spec=AuditSetting)
    audit.clients = SimpleNamespace(**given)
    audit.decoys = SimpleNamespace(images=[torch.rand(20, 1, 8, 8) for _ in range(2)])
    shared = {f"layer{k}": torch.zeros(7) for k in range(layers)}
    found = Scores({"mse": np.ones(2)}, np.array([1, 20]), np.array([20, 20]), given["batch_size"])
    return cell_allowance(audit, load_defense(defense), shared).to_dict(found)


def test_tensors_and_the_batch_are_counted():
    found = asked("fed-cdp:4,6", layers=9, batch_size=2)
    assert (found["sensitivity"], found["noise"], found["mu"]) == (4 * 3 / 2, 24 / 2, 0.5)
    assert found["candidates"] == [21, 21]
    # A batch has two guesses.
    assert found["reconstruction"]["baseline"] == 2 * BLIND
    assert found["reconstruction"]["most"] == pytest.approx(gaussian(0.2, 0.5))


def test_so_are_coordinates_and_rounds():
    assert asked("clip:1+laplace:1")["epsilon"] == pytest.approx(math.sqrt(42))
    assert asked("dynamic-dp:linear", round=5, rounds=10)["noise"] == pytest.approx(4 * 9.925)


def test_no_bound_is_given_of_captured_updates_or_beside_running_statistics():
    for clients, reason in (({"captured": [{}]}, CAPTURED), ({"statistics": True}, STATISTICS)):
        found = asked("dp-sgd:1,1", **clients)
        assert (found["kind"], found["reason"]) == (None, reason)
        assert set(found["most"].values()) == {None}
        assert found["exceeded"] == []


@pytest.mark.slow("an audit of real images")
def test_of_real_images(data, prior):
    """The mean of a batch of two is clipped as a whole: the batch makes its sensitivity no smaller."""
    victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0)
    found = ggl.audit(
        victim,
        data.images[:2],
        data.labels[:2],
        prior=prior,
        defenses=["clip:1+noise:0.5", "none"],
        strategies=["random"],
        budget=16,
        ceiling_budget=16,
        batch_size=2,
    ).to_dict()["results"]
    proved, plain = (cell["guarantee"] for cell in found)
    assert (proved["kind"], proved["mu"], proved["sensitivity"]) == ("formal", 2.0, 1.0)
    assert proved["most"]["identification"] == pytest.approx(gaussian(0.01, 2.0))
    assert 0 < proved["reconstruction"]["tolerance"] < 0.1
    assert (plain["kind"], plain["reconstruction"]) == (None, None)
    assert "bounded norm" in plain["reason"]
