"""What every defense that is a function of the gradient alone, and every composition, keeps to.

`test_client_contract.py` holds every registered one to the rest, on every victim.
"""

import pytest
import torch

import ggl
from ggl.base.errors import InputError, UnknownNameError
from ggl.defenses import ATTACKERS, Client, Composed, defenses, load_defense
from ggl.gradients import Clip, GradientOracle, Mask

PARAMETERS = {
    "none": "",
    "noise": ":0.1",
    "laplace": ":0.1",
    "clip": ":2",
    "clip-layer": ":0.7",
    "prune": ":0.4",
    "prune-global": ":0.6",
    "top-k": ":0.4",
    "sign": "",
    "qsgd": ":3",
    "precode": "",
    "cvb": "",
    "dp-sgd": ":1,0.5",
    "fed-cdp": "",
    "dynamic-dp": ":cyclic,clipping=l2-max",
}
"""Options for every registered defense that works on the gradient below."""

NEED_THE_CLIENT = {"soteria", "outpost", "orthogonal", "ppp"}
BOTTLENECKS = {"precode", "cvb"}
"""Their attackers look for layers in the wrapped victim."""

DETERMINISTIC = [
    "none",
    "clip:2",
    "clip:1e6",
    "clip-layer:0.7",
    "prune:0.4",
    "prune:0",
    "prune-global:0.6",
    "clip:2+prune:0.4",
    "prune:0.4+clip:2",
    "clip:2+prune-global:0.6",
    "prune-global:0.6+clip:2",
    "clip-layer:0.7+prune:0.4",
    "prune:0.4+clip-layer:0.7",
    "prune:0.4+prune-global:0.6",
    "top-k:0.4",
    "clip:2+top-k:0.4",
]
ESTIMATED_ONLY = ["clip:1.5+clip-layer:0.7", "clip-layer:0.7+clip:1.5", "prune:0.4+clip:2+prune:0.7"]
"""Compositions that an attacker who estimates fits exactly, and one who applies the parts may not."""

RANDOM = [
    "noise:0.1",
    "laplace:0.1",
    "qsgd:3",
    "dp-sgd:1,0.5",
    "clip:2+noise:0.1",
    "prune:0.4+laplace:0.1",
    "noise:0.1+prune:0.4",
]
ALL = [f"{name}{options}" for name, options in PARAMETERS.items()]
ALL += [name for name in DETERMINISTIC + ESTIMATED_ONLY + RANDOM if name not in ALL]

every = pytest.mark.parametrize("name", ALL)


def gradient(dtype=torch.float64, scale=1.0):
    """Of norm about 4.6 · scale; holds a zero, ties, a parameter of one number and one that is all zero."""
    random = torch.Generator().manual_seed(0)
    g = {
        "conv.weight": torch.randn(2, 3, 2, 2, generator=random, dtype=torch.float64),
        "conv.bias": torch.tensor([0.5, -0.5, 0.5, 0.0], dtype=torch.float64),
        "scale": torch.tensor([0.3], dtype=torch.float64),
        "unused": torch.zeros(3, dtype=torch.float64),
    }
    return {name: (scale * tensor).to(dtype) for name, tensor in g.items()}


def protect(name, gradients, seed=0):
    return load_defense(name).protect(gradients, torch.Generator().manual_seed(seed))


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_every_registered_defense_is_tested():
    assert set(PARAMETERS) | NEED_THE_CLIENT == set(defenses.names())


@pytest.mark.parametrize("name", ["soteria:0.5", "outpost", "orthogonal", "ppp:noise=0.1"])
def test_a_defense_that_needs_the_client_says_so(name):
    with pytest.raises(InputError, match="needs the victim and the batch: call share"):
        protect(name, gradient())


@every
def test_the_input_is_left_as_it_was(name):
    g = gradient()
    shared = protect(name, g)
    assert same(g, gradient())
    for tensor in shared.values():
        tensor.add_(1)
    assert same(g, gradient())


@every
def test_the_generator_defines_the_draw(name):
    assert same(protect(name, gradient(), seed=1), protect(name, gradient(), seed=1))


@pytest.mark.parametrize("name", RANDOM)
def test_another_seed_gives_another_draw(name):
    assert not same(protect(name, gradient(), seed=1), protect(name, gradient(), seed=2))


@pytest.mark.parametrize("name", DETERMINISTIC + ESTIMATED_ONLY)
def test_a_deterministic_defense_draws_nothing(name):
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    load_defense(name).protect(gradient(), generator)
    assert torch.equal(generator.get_state(), before)


@every
def test_the_global_random_state_is_left_alone(name):
    before = torch.get_rng_state()
    protect(name, gradient())
    assert torch.equal(torch.get_rng_state(), before)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_names_shapes_and_dtype_are_kept(name, dtype):
    g = gradient(dtype)
    for key, tensor in protect(name, g).items():
        assert tensor.dtype == dtype
        assert tensor.shape == g[key].shape
    assert list(protect(name, g)) == list(g)


@every
def test_each_parameter_keeps_its_own_dtype(name):
    g = gradient()
    g["conv.bias"] = g["conv.bias"].half()
    assert {key: t.dtype for key, t in protect(name, g).items()} == {key: t.dtype for key, t in g.items()}


@every
def test_the_device_is_kept(name):
    g = {key: tensor.to("meta") for key, tensor in gradient().items()}
    assert all(tensor.device.type == "meta" for tensor in protect(name, g).values())


@every
def test_the_name_loads_the_same_defense_again(name):
    again = load_defense(load_defense(name).name)
    assert again.name == load_defense(name).name
    assert same(again.protect(gradient(), torch.Generator().manual_seed(3)), protect(name, gradient(), 3))


@every
def test_the_naive_view_is_the_observed_gradient_alone(name):
    shared = protect(name, gradient())
    view = load_defense(name).view(shared, "naive")
    assert view.steps == ()
    assert same(view.target, shared)


@pytest.mark.parametrize("name", [name for name in ALL if name not in BOTTLENECKS])
@pytest.mark.parametrize("attacker", ATTACKERS)
def test_a_view_applies_to_a_trial_gradient_and_leaves_it_as_it_was(name, attacker):
    shared = protect(name, gradient())
    before = {key: tensor.clone() for key, tensor in shared.items()}
    trial = gradient(scale=3)
    applied = load_defense(name).view(shared, attacker).apply(trial)
    assert list(applied) == list(trial)
    assert all(tensor.isfinite().all() for tensor in applied.values())
    assert same(trial, gradient(scale=3))
    assert same(shared, before)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1, 1e3])
@pytest.mark.parametrize(
    ("name", "attacker"),
    [(name, attacker) for name in DETERMINISTIC for attacker in ("adaptive", "informed")]
    + [(name, "adaptive") for name in ESTIMATED_ONLY],
)
def test_the_private_gradients_view_is_what_was_observed(name, attacker, scale):
    """To 2e-5: clipping adds 1e-6 to a norm, of which an attacker who estimates can't know the size.

    The smallest norm that two clips leave here is 0.087.
    """
    g = gradient(scale=scale)
    shared = protect(name, g)
    applied = load_defense(name).view(shared, attacker).apply(g)
    whole = max(tensor.abs().max() for tensor in shared.values())
    for key, tensor in shared.items():
        torch.testing.assert_close(applied[key], tensor, rtol=2e-5, atol=1e-12 * whole.item())


@pytest.mark.parametrize("name", ["clip:2", "clip-layer:0.7"])
def test_an_informed_attacker_uses_the_bound_and_an_adaptive_one_the_norm(name):
    """Under a loose bound they differ: a trial gradient may be longer than the observed one."""
    defense, small = load_defense(name), gradient(scale=0.01)
    shared = defense.protect(small, torch.Generator())
    trial = {key: 5 * tensor for key, tensor in small.items()}
    informed = defense.view(shared, "informed").apply(trial)
    assert same(informed, trial)
    adaptive = defense.view(shared, "adaptive").apply(trial)
    for key, tensor in shared.items():
        torch.testing.assert_close(adaptive[key], tensor, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["none", "noise:0.1", "laplace:0.1", "prune:0", "noise:0.1+laplace:0.1"])
@pytest.mark.parametrize("attacker", ATTACKERS)
def test_nothing_to_imitate_is_the_naive_view(name, attacker):
    g = {"weight": torch.ones(3)}
    assert load_defense(name).view(protect(name, g), attacker).steps == ()


@pytest.mark.parametrize("attacker", ["adaptive", "informed"])
@pytest.mark.parametrize("name", ["prune:0.4", "prune-global:0.6"])
def test_the_mask_is_read_off_the_zeros(name, attacker):
    shared = protect(name, gradient())
    (mask,) = load_defense(name).view(shared, attacker).steps
    assert isinstance(mask, Mask)
    assert all(torch.equal(mask.keep[key], tensor != 0) for key, tensor in shared.items() if key in mask.keep)
    assert all((shared[key] != 0).all() for key in set(shared) - set(mask.keep))


@pytest.mark.parametrize(
    ("name", "attacker", "kinds"),
    [
        ("clip:2+prune:0.4", "adaptive", [Mask, Clip]),
        ("clip:2+prune:0.4", "informed", [Clip, Mask]),
        ("prune:0.4+clip:2", "adaptive", [Mask, Clip]),
        ("prune:0.4+clip:2", "informed", [Mask, Clip]),
        ("prune:0.4+prune-global:0.6", "adaptive", [Mask]),
        ("prune:0.4+clip:2+prune:0.7", "informed", [Clip, Mask]),
    ],
)
def test_an_informed_attacker_follows_the_order_and_an_adaptive_one_masks_first(name, attacker, kinds):
    view = load_defense(name).view(protect(name, gradient()), attacker)
    assert [type(step) for step in view.steps] == kinds


def unchecked(function):
    """Return the function without the run-time type checks that these tests put around it."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


@every
def test_an_unknown_attacker_is_refused(name):
    defense = load_defense(name)
    with pytest.raises(UnknownNameError, match="no attacker is named 'adaptiv'; did you mean 'adaptive'"):
        unchecked(type(defense).view)(defense, gradient(), "adaptiv")


def test_a_composition_applies_its_parts_in_order():
    g = gradient()
    parts = protect("prune:0.4", protect("clip:2", g))
    assert same(protect("clip:2+prune:0.4", g), parts)
    assert isinstance(load_defense("clip:2 + prune:0.4"), Composed)
    assert load_defense("clip:2 + prune:0.4").name == "clip:2+prune:0.4"


def test_parts_of_a_composition_draw_one_after_the_other():
    g = gradient()
    generator = torch.Generator().manual_seed(0)
    first = load_defense("noise:0.1").protect(g, generator)
    second = load_defense("noise:0.1").protect(first, generator)
    assert same(protect("noise:0.1+noise:0.1", g), second)


def test_a_defense_is_loaded_as_it_is():
    defense = load_defense("clip:2")
    assert load_defense(defense) is defense


def scores_of_images(name, attacker="adaptive", private=0, candidates=20):
    """Return distances of same-class images' gradients, the private one's first, on LeNet."""
    data = ggl.load_dataset("fashion-mnist-heldout")
    images = data.images[data.labels == 5][private : private + candidates]
    label = torch.tensor([5])
    oracle = GradientOracle(
        ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0), backend="layerwise"
    )
    defense = load_defense(name)
    client = Client(oracle, images[:1], label)
    shared = defense.share(client, torch.Generator().manual_seed(private))
    return oracle.score(images, label, defense.view(shared, attacker, oracle.model), "cosine")


@pytest.mark.slow("searches, compared")
@pytest.mark.parametrize(
    "name",
    [
        *("prune:0.9+qsgd:2", "qsgd:2+clip-layer:0.1", "qsgd:2+prune:0.5", "prune:0.9+sign"),
        *("orthogonal:2+qsgd:2", "qsgd:2+orthogonal:2", "clip:1+noise:0.01+prune:0.9"),
        *("prune:0.5+soteria:0.5", "soteria:0.5+prune:0.5"),
    ],
)
def test_who_adapts_to_a_composition_is_no_worse_than_naive(name):
    """Mean share of same-class images that match better than the private one, over four of these."""
    shares = {
        attacker: sum(
            (scores[1:] < scores[0]).float().mean().item()
            for scores in (scores_of_images(name, attacker, private) for private in range(4))
        )
        / 4
        for attacker in ("naive", "adaptive")
    }
    assert shares["adaptive"] <= shares["naive"] + 0.05


def test_masks_of_several_parts_become_what_all_of_them_keep():
    defense = load_defense("soteria:0.5+prune:0.5")
    oracle = GradientOracle(ggl.load_victim("mlp", in_channels=1, num_classes=4, image_size=8, seed=0))
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    shared = defense.share(Client(oracle, image, torch.tensor([1])), torch.Generator())
    (mask,) = defense.view(shared, "adaptive", oracle.model).steps
    assert set(mask.keep) == set(shared)
    assert all(torch.equal(mask.keep[name], g != 0) for name, g in shared.items())


def test_a_composition_is_as_large_as_its_last_form():
    g = gradient()
    dense = protect("noise:0.1", g)
    assert load_defense("sign+noise:0.1").size(dense) == load_defense("noise:0.1").size(dense)
    assert load_defense("clip:1+sign").size(protect("sign", g)) == load_defense("sign").size(
        protect("sign", g)
    )
