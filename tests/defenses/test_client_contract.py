"""What every registered defense keeps to at a client, on every kind of victim."""

import pytest
import torch

from ggl import GradientOracle, load_defense, load_victim
from ggl.base.errors import GradientError, InputError
from ggl.defenses import Client, defenses

OPTIONS = {
    "none": "",
    "noise": ":0.01",
    "laplace": ":0.01",
    "clip": ":1",
    "clip-layer": ":0.5",
    "prune": ":0.5",
    "prune-global": ":0.5",
    "top-k": ":0.2",
    "sign": "",
    "qsgd": ":4",
    "soteria": ":0.5",
    "outpost": "",
    "orthogonal": ":2",
    "precode": ":16",
    "cvb": ":3,channels=4",
    "ppp": ":prune=0.5,size=16",
    "dp-sgd": ":1,0.1",
    "fed-cdp": ":1,0.1",
    "dynamic-dp": ":linear",
}
VICTIMS = ("mlp", "lenet", "convnet", "resnet18", "resnet18-groupnorm", "vit")
NO_MAPS = {"mlp", "vit"}
SMALL = ("mlp", "lenet", "vit")
SIDE, CLASSES = 8, 4
SPECIFICATIONS = [f"{name}{options}" for name, options in OPTIONS.items()]

every_defense = pytest.mark.parametrize("name", SPECIFICATIONS)
small_victims = pytest.mark.parametrize(
    "victim",
    [
        pytest.param(victim, marks=[pytest.mark.slow("a transformer")] if victim == "vit" else [])
        for victim in SMALL
    ],
)


def build(name, victim, batch=1):
    """Return the defense and a client of its wrapped victim; skip maps that a victim does not have."""
    defense = load_defense(name)
    bare = load_victim(victim, in_channels=1, num_classes=CLASSES, image_size=SIDE, seed=0)
    if name.startswith("cvb") and victim in NO_MAPS:
        with pytest.raises(InputError, match=r"^cvb: expected"):
            Client(GradientOracle(defense.wrap(bare)), *data(batch)).gradient()
        pytest.skip(f"cvb refuses {victim}, as it must")
    before = {key: tensor.clone() for key, tensor in bare.state_dict().items()}
    wrapped = defense.wrap(bare)
    assert same(bare.state_dict(), before)
    return defense, Client(GradientOracle(wrapped), *data(batch), round=3, rounds=10)


def data(batch):
    random = torch.Generator().manual_seed(batch)
    images = torch.rand((batch, 1, SIDE, SIDE), generator=random)
    return images, torch.randint(CLASSES, (batch,), generator=random)


def share(defense, client, seed=0):
    return defense.share(client, torch.Generator().manual_seed(seed))


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def finite(gradients):
    return all(g.isfinite().all() for g in gradients.values())


def test_every_registered_defense_is_tested():
    assert set(OPTIONS) == set(defenses.names())


@every_defense
@pytest.mark.parametrize(
    "victim",
    [
        pytest.param(victim, marks=[pytest.mark.slow("a ResNet-18")] if "resnet" in victim else [])
        for victim in VICTIMS
    ],
)
def test_what_is_shared_has_the_victims_parameters_and_nothing_is_changed(name, victim):
    defense, client = build(name, victim)
    images, weights = client.images.clone(), {k: t.clone() for k, t in client.model.state_dict().items()}
    state = torch.get_rng_state()
    shared = share(defense, client)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(client.images, images)
    assert same(client.model.state_dict(), weights)
    expected = {key: p.shape for key, p in client.model.named_parameters() if p.requires_grad}
    assert {key: g.shape for key, g in shared.items()} == expected
    assert finite(shared)
    assert any(g.any() for g in shared.values())


@every_defense
@small_victims
def test_the_seeds_define_what_is_shared(name, victim):
    defense, client = build(name, victim, batch=2)
    again = build(name, victim, batch=2)[1]
    assert same(share(defense, client), share(defense, again))


@every_defense
def test_it_composes_before_and_after_others(name):
    """On the victim that every defense takes: composition knows of gradients alone."""
    for composed in (f"clip:1+{name}", f"{name}+noise:0.001", f"{name}+prune:0.5+clip:2"):
        client = build(name, "lenet")[1]
        shared = share(load_defense(composed), client)
        assert finite(shared)
        assert set(shared) == set(client.gradient())
        assert load_defense(composed).name == load_defense(load_defense(composed).name).name


@every_defense
@small_victims
def test_every_attacker_scores_candidates(name, victim):
    """Finite losses, the same by the fast backend and by the loop."""
    defense, client = build(name, victim)
    shared = share(defense, client)
    candidates = data(5)[0]
    slow = GradientOracle(client.model, backend="sequential")
    for attacker in defense.attackers:
        view, trial = defense.view(shared, attacker, client.model), defense.trial(attacker)
        losses = client.oracle.score(candidates, client.labels, view, "cosine", trial)
        assert losses.isfinite().all()
        expected = slow.score(candidates, client.labels, view, "cosine", trial)
        torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-5)
    assert client.oracle.backend == "layerwise"


@every_defense
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_zero_tiny_and_huge_gradients_come_out_finite(name, scale):
    """On the victim that every defense takes: what a gradient's size does is no matter of layers."""
    defense, client = build(name, "lenet")
    g = {key: scale * tensor for key, tensor in client.gradient().items()}
    shared = share(defense, client.after(g))
    assert finite(shared)
    if scale and name.startswith(("clip", "prune", "top-k")):
        assert any(tensor.any() for tensor in shared.values())


@every_defense
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_refused(name, value):
    defense, client = build(name, "lenet")
    g = client.gradient()
    g[min(g)] = torch.full_like(g[min(g)], value)
    with pytest.raises(GradientError, match="the gradient to be defended is not finite"):
        share(defense, client.after(g))


@every_defense
def test_the_size_on_the_wire_is_at_most_the_dense_one(name):
    defense, client = build(name, "lenet")
    shared = share(defense, client)
    assert 0 < defense.size(shared) <= 4 * sum(g.numel() for g in shared.values())


def test_a_round_out_of_range_is_refused():
    client = build("none", "lenet")[1]
    with pytest.raises(InputError, match="expected a round from 0 to below 3, found 3"):
        Client(client.oracle, client.images, client.labels, round=3, rounds=3)
