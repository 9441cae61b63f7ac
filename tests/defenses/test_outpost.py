"""OUTPOST: when it perturbs, what it prunes, where noise goes and how much."""

import math

import pytest
import torch
from torch import nn

from ggl.base.errors import InputError
from ggl.defenses.client import Client
from ggl.defenses.outpost import Outpost, empirical_fisher, largest_of_all, weight_risks
from ggl.defenses.pruning import smallest_zeroed
from ggl.gradients import GradientOracle, Mask


def small_client(batch=3, training_round=0, computed=None):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 11), nn.Tanh(), nn.Linear(11, 4)).double()
    images = torch.rand((batch, 1, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    oracle = GradientOracle(model, backend="sequential")
    labels = torch.arange(batch) % 4
    return Client(oracle, images, labels, round=training_round, rounds=10_000, computed=computed)


def share(defense, client, seed=0):
    return defense.share(client, torch.Generator().manual_seed(seed))


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("training_round", "beta"), [(1, 0.125), (8, 0.125), (100, 0.125), (4, 1.0)])
def test_rounds_are_perturbed_with_the_probability_of_the_round(training_round, beta):
    """Of n seeds, a share within 4 standard deviations √(p (1 - p) / n) of p = 1 / (1 + beta · round)."""
    n, p = 1000, 1 / (1 + beta * training_round)
    gradient = {name: g[:2] for name, g in small_client().gradient().items()}
    client = small_client(training_round=training_round, computed=gradient)
    defense = Outpost(beta=beta)
    hits = sum(not same(share(defense, client, seed), gradient) for seed in range(n))
    assert defense.probability(training_round) == pytest.approx(p)
    assert abs(hits / n - p) < 4 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize(("beta", "training_round"), [(0.125, 0), (0.0, 9000)])
def test_the_first_round_and_beta_zero_always_perturb(beta, training_round):
    gradient = small_client().gradient()
    client = small_client(training_round=training_round, computed=gradient)
    assert all(not same(share(Outpost(beta=beta), client, seed), gradient) for seed in range(50))


def test_a_round_that_is_not_perturbed_shares_a_copy():
    client = small_client(training_round=9999)
    gradient = client.gradient()
    shared = share(Outpost(), client)
    assert same(shared, gradient)
    clean = share(Outpost(), client.after(gradient))
    for tensor in clean.values():
        tensor.add_(1)
    assert same(shared, gradient)


def test_pruning_comes_first_and_noise_goes_onto_the_most_fisher_information():
    """The slow oracle: what pruning leaves, plus something exactly on the top 40 % of E[g²]."""
    client = small_client()
    gradient = client.gradient()
    shared = share(Outpost(), client)
    squares = [{n: g.square() for n, g in example.items()} for example in client.examples()]
    fisher = torch.cat([sum(square[name] for square in squares).flatten() / 3 for name in gradient])
    most = sorted(range(len(fisher)), key=lambda i: -fisher[i])[: int(0.4 * len(fisher))]
    pruned = torch.cat([smallest_zeroed(g.flatten(), 0.8) for g in gradient.values()])
    found = torch.cat([g.flatten() for g in shared.values()])
    assert set((found != pruned).nonzero().flatten().tolist()) == set(most)


@pytest.mark.parametrize("pruned", [0.0, 0.5, 0.8])
def test_pruning_alone_zeroes_exact_counts(pruned):
    shared = share(Outpost(noise=0.0, pruned=pruned), small_client())
    for g in shared.values():
        assert (g == 0).sum() == int(pruned * g.numel() + 1e-9)


@pytest.mark.parametrize("fisher", [0.0, 0.1, 0.4, 1.0])
def test_noise_alone_touches_exact_counts(fisher):
    client = small_client()
    gradient, shared = client.gradient(), share(Outpost(fisher=fisher, pruned=0.0), client)
    touched = sum(int((shared[name] != g).sum()) for name, g in gradient.items())
    assert touched == int(fisher * sum(g.numel() for g in gradient.values()) + 1e-9)


def test_the_largest_are_chosen_over_all_parameters_ties_by_position():
    values = {"a": torch.tensor([[0.0, 3.0], [1.0, 1.0]]), "b": torch.tensor([1.0, 5.0])}
    expected = {0.0: [0] * 6, 0.34: [0, 1, 0, 0, 0, 1], 0.5: [0, 1, 1, 0, 0, 1], 1.0: [1] * 6}
    for share_of, places in expected.items():
        chosen = largest_of_all(values, share_of)
        assert torch.cat([c.flatten() for c in chosen.values()]).int().tolist() == places
        assert chosen["a"].shape == (2, 2)


def test_risks_by_hand():
    """Variances with n - 1: 1/2 of (0, 1), 10,000 cut to 1, and none of a single number."""
    model = nn.ParameterDict({"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([-100.0, 0.0, 100.0])})
    model["c"] = nn.Parameter(torch.tensor([7.0]))
    assert weight_risks(model) == {"a": 0.5, "b": 1.0, "c": 0.0}


def test_the_noise_has_the_standard_deviation_noise_times_risk():
    """Each parameter's, over n draws, within 5 standard deviations √(2 / n) of the variance's ratio to 1."""
    client = small_client()
    gradient, risks = client.gradient(), weight_risks(client.model)
    draws = [share(Outpost(fisher=1.0, pruned=0.0), client.after(gradient), seed) for seed in range(200)]
    for name, g in gradient.items():
        noise = torch.stack([draw[name] - g for draw in draws]) / (0.8 * risks[name])
        n = noise.numel()
        assert abs(noise.square().mean() - 1) < 5 * math.sqrt(2 / n)
        assert abs(noise.mean()) < 5 / math.sqrt(n)


def test_fisher_is_the_mean_of_the_examples_squares():
    client = small_client(batch=2)
    a, b = client.examples()
    found = empirical_fisher(client, client.gradient())
    for name, value in found.items():
        torch.testing.assert_close(value, (a[name] ** 2 + b[name] ** 2) / 2)


def test_after_another_defense_the_fisher_is_the_square_of_its_gradient():
    gradient = small_client().gradient()
    halved = {name: g / 2 for name, g in gradient.items()}
    client = small_client(computed=halved)
    assert same(empirical_fisher(client, halved), {name: g**2 for name, g in halved.items()})
    shared = share(Outpost(noise=0.0), client)
    assert same(shared, {n: smallest_zeroed(g.flatten(), 0.8).view_as(g) for n, g in halved.items()})


def test_inputs_are_left_as_they_were_and_the_generator_defines_the_draw():
    client = small_client()
    gradient = client.gradient()
    kept = {name: g.clone() for name, g in gradient.items()}
    weights = {name: p.clone() for name, p in client.model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (share(Outpost(), client.after(gradient), 3) for _ in range(2))
    assert same(first, second)
    assert not same(first, share(Outpost(), client.after(gradient), 4))
    assert same(gradient, kept)
    assert same(dict(client.model.state_dict()), weights)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_are_kept(dtype):
    gradient = {name: g.to(dtype) for name, g in small_client().gradient().items()}
    shared = share(Outpost(), small_client(computed=gradient))
    assert {g.dtype for g in shared.values()} == {dtype}


@pytest.mark.parametrize("attacker", ["adaptive", "informed"])
def test_the_mask_is_read_off_the_zeros(attacker):
    client = small_client()
    shared = share(Outpost(), client)
    view = Outpost().view(shared, attacker)
    (mask,) = view.steps
    assert isinstance(mask, Mask)
    assert all(torch.equal(keep, shared[name] != 0) for name, keep in mask.keep.items())


def test_the_name_says_what_differs_from_the_defaults():
    assert Outpost().name == "outpost"
    assert Outpost(beta=0.5, noise=1e30).name == "outpost:beta=0.5,noise=1e30"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "outpost: expected beta of at least 0, found -1"),
        ({"noise": math.inf}, "outpost: expected noise of at least 0, found inf"),
        ({"fisher": 1.5}, "outpost: expected fisher from 0 to 1, found 1.5"),
        ({"pruned": 1.0}, "outpost: expected pruned below 1, found 1; that would share no gradient"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError) as error:
        Outpost(**options)
    assert str(error.value) == message
