"""Which strategy searches where none is asked for: what can be told residuals, else CMA-ES and a word why."""

import warnings

import pytest
import torch

import ggl
from ggl.attacks.settings import AttackSettings
from ggl.attacks.strategy_choice import StrategyWarning, chosen_strategy
from ggl.base.errors import InputError


@pytest.fixture(scope="module")
def oracle():
    return ggl.GradientOracle(ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32))


def chosen(oracle, prior, data, defense="none", batch=1, **settings):
    shared = oracle.observe(data.images[:1], data.labels[:1])
    view = ggl.load_defense(defense).view(shared, "adaptive", oracle.model)
    return chosen_strategy(AttackSettings(prior=prior, **settings), oracle, view, batch)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"budget": 128}, "gauss-newton"),
        ({"budget": 127}, "cma-es"),
        ({"budget": 255, "restarts": 2}, "cma-es"),
        ({"budget": 128, "batch": 8}, "gauss-newton"),  # one Jacobian is all images'
        ({"budget": 128, "defense": "prune:0.9"}, "gauss-newton"),
        ({"budget": 128, "defense": "sign"}, "gauss-newton"),
        ({"budget": 128, "batch": 8, "defense": "clip-layer:1"}, "cma-es"),  # searched jointly
        ({"budget": 1024, "batch": 8, "defense": "clip-layer:1"}, "gauss-newton"),
        ({"budget": 2000, "strategy": "adam"}, "adam"),
    ],
)
def test_residuals_are_used_where_the_budget_holds_two_jacobians(oracle, prior, data, settings, expected):
    assert chosen(oracle, prior, data, **settings) == expected


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"label_rule": "searched"}, "labels are searched"),
        ({"distance": "orthogonal"}, "the distance is no sum of squares"),
        ({"batch": 65}, "4,160 coordinates are more than 4,096"),
    ],
)
def test_where_there_are_none_a_warning_says_so(oracle, prior, data, settings, reason):
    with pytest.warns(StrategyWarning, match=f"^the strategy is cma-es, not gauss-newton: {reason}"):
        assert chosen(oracle, prior, data, budget=10_000, **settings) == "cma-es"


def test_an_audit_and_an_attack_name_and_use_what_was_chosen(oracle, prior, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few images
        report = ggl.audit(
            oracle.model, data.images[:2], data.labels[:2], prior=prior, budget=130, ceiling_budget=20
        )
    cell = report.cells[0]
    assert cell.strategy == "gauss-newton"
    shared, label = oracle.observe(data.images[:1], data.labels[:1]), data.labels[:1]
    options = {"prior": prior, "budget": 130, "seed": 0}
    plain = ggl.attack(oracle, shared, label, **options)
    named = ggl.attack(oracle, shared, label, strategy="gauss-newton", **options)
    assert torch.equal(plain.latents, named.latents)


def test_a_distance_without_residuals_is_refused_before_anything_runs(oracle, prior, data):
    with pytest.raises(InputError, match=r"^expected a distance that is a sum of squares, cosine or l2, "):
        ggl.audit(
            oracle.model,
            data.images[:1],
            data.labels[:1],
            prior=prior,
            strategies=["gauss-newton"],
            distance="orthogonal",
            ceiling_budget=10**9,
        )
