"""Soteria against finite differences, hand-computed scores, and on every victim."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ggl.base.errors import InputError
from ggl.defenses.base import Composed
from ggl.defenses.client import Client
from ggl.defenses.clipping import Clipping
from ggl.defenses.soteria import Soteria, feature_scores, lowest_scored
from ggl.gradients import GradientOracle, Mask, Sampled
from ggl.victims import load_victim, victims


def client_of(model, batch=1, size=8, channels=1, seed=0):
    random = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    images = torch.rand((batch, channels, size, size), generator=random, dtype=torch.float64).to(dtype)
    return Client(GradientOracle(model, backend="sequential"), images, torch.arange(batch) % 3)


def small_net(*middle, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), *middle, nn.Tanh(), nn.Flatten(), nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 3)
        ).double()


def linear_net(rows):
    """r = W x of the 2 pixels of a 1 x 2 image, then a linear head on r."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, len(rows), bias=False), nn.Linear(len(rows), 3))
    model.requires_grad_(True)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor(rows))
        model[2].weight.copy_(torch.linspace(-1, 1, 3 * len(rows)).view(3, -1))
    return model


def linear_client(rows, *pixels):
    images = torch.tensor(pixels)[:, None, None, :]
    return Client(GradientOracle(linear_net(rows), backend="sequential"), images, torch.arange(len(pixels)))


def share(defense, client):
    return defense.share(client, torch.Generator())


def zero_columns(weight):
    return (weight == 0).all(0)


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def slow_scores(client, read):
    """One central difference a pixel; `read` maps images to the representation."""
    scores = 0
    for image in client.images:
        columns = []
        for pixel in range(image.numel()):
            step = torch.zeros(image.numel(), dtype=image.dtype)
            step[pixel] = 1e-5
            step = step.view(1, *image.shape)
            columns.append((read(image[None] + step) - read(image[None] - step))[0] / 2e-5)
        scores = scores + torch.stack(columns).norm(dim=0) / read(image[None])[0].abs()
    return scores


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("layer", "stop"), [("5", 5), ("3", 3)])
def test_scores_are_those_of_finite_differences(batch, layer, stop):
    model = small_net()
    client = client_of(model, batch, size=4)
    with torch.no_grad():
        expected = slow_scores(client, model[:stop])
    torch.testing.assert_close(feature_scores(client, layer), expected, rtol=1e-6, atol=0)


def test_more_features_than_one_pass_takes_are_all_scored():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 150), nn.Sigmoid(), nn.Linear(150, 3)).double()
    client = client_of(model, size=4)
    with torch.no_grad():
        expected = slow_scores(client, model[:3])
    torch.testing.assert_close(feature_scores(client, "3"), expected, rtol=1e-6, atol=0)


def test_scores_by_hand():
    """‖w‖ / |w · x| of each row: 5/5, √2/2, 1/2, and a negative feature counts by its size."""
    client = linear_client([[3.0, 4.0], [1.0, 1.0], [0.0, -1.0]], [-1.0, 2.0])
    found = feature_scores(client, "2")
    torch.testing.assert_close(found, torch.tensor([5 / 5, 2**0.5 / 1, 1 / 2]))
    shared = share(Soteria(0.4), client)
    assert zero_columns(shared["2.weight"]).tolist() == [False, False, True]


def test_a_batch_sums_the_scores_and_a_dead_image_adds_nothing():
    """Through a ReLU: the features are (1, 0) and (2, 4), their derivatives 1 where they are alive."""
    model = linear_net([[1.0, 0.0], [0.0, 1.0]])
    model.insert(2, nn.ReLU())
    images = torch.tensor([[1.0, -3.0], [2.0, 4.0]])[:, None, None, :]
    client = Client(GradientOracle(model, backend="sequential"), images, torch.tensor([0, 1]))
    torch.testing.assert_close(feature_scores(client, "3"), torch.tensor([1 / 1 + 1 / 2, 1 / 4]))


def test_a_feature_that_is_zero_scores_infinity_and_goes_last():
    rows = [[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [3.0, 0.0]]
    client = linear_client(rows, [0.0, 1.0])
    assert feature_scores(client, "2").tolist() == [torch.inf, 1.0, 1.0, torch.inf]
    chosen = [lowest_scored(feature_scores(client, "2"), share).tolist() for share in (0.25, 0.5, 0.75)]
    assert chosen == [[False, True, False, False], [False, True, True, False], [True, True, True, False]]


def test_a_representation_without_a_derivative_is_scored_all_the_same():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
    images = torch.tensor([[[[0.0, 2.0]]]])

    class Sign(nn.Module):
        def forward(self, x):
            return x.detach().sign()

    model.insert(1, Sign())
    client = Client(GradientOracle(model, backend="sequential"), images, torch.tensor([0]))
    assert feature_scores(client, "2").tolist() == [torch.inf, 0.0]


@settings(max_examples=60)
@given(
    scores=st.lists(st.sampled_from([0.0, 1.0, 2.0, torch.inf]), min_size=1, max_size=30),
    share=st.floats(0, 0.999),
)
def test_the_count_is_exact_under_ties_and_zeros(scores, share):
    chosen = lowest_scored(torch.tensor(scores), share)
    assert chosen.sum() == int(share * len(scores) + 1e-9)
    order = sorted(range(len(scores)), key=lambda f: (scores[f], f))
    assert set(chosen.nonzero().flatten().tolist()) == set(order[: int(chosen.sum())])


def test_only_the_columns_change():
    client = client_of(small_net(), batch=2, size=4)
    gradient, shared = client.gradient(), share(Soteria(0.5), client)
    assert zero_columns(shared["5.weight"]).sum() == 3
    assert torch.equal(
        shared["5.weight"][:, ~zero_columns(shared["5.weight"])],
        gradient["5.weight"][:, ~zero_columns(shared["5.weight"])],
    )
    assert all(torch.equal(shared[name], g) for name, g in gradient.items() if name != "5.weight")


def test_share_zero_changes_nothing():
    client = client_of(small_net(), size=4)
    assert same(share(Soteria(0.0), client), client.gradient())


def test_another_layer_is_defended_by_name():
    client = client_of(small_net(), size=4)
    shared = share(Soteria(0.5, layer="3"), client)
    assert zero_columns(shared["3.weight"]).sum() == 6
    assert not zero_columns(shared["5.weight"]).any()


@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_gradient_are_left_as_they_were(training):
    """Batch normalization in train mode would count the batch if the model itself were run."""
    client = client_of(small_net(nn.BatchNorm2d(3)).train(training), batch=3, size=4)
    before, gradient = copy.deepcopy(client.model.state_dict()), client.gradient()
    kept = {name: g.clone() for name, g in gradient.items()}
    hooks = [len(module._forward_pre_hooks) for module in client.model.modules()]
    shared = share(Soteria(0.5), client.after(gradient))
    for tensor in shared.values():
        tensor.add_(1)
    assert same(gradient, kept)
    assert same(client.model.state_dict(), before)
    assert client.model.training == training
    assert all(p.grad is None and p.requires_grad for p in client.model.parameters())
    assert [len(module._forward_pre_hooks) for module in client.model.modules()] == hooks
    assert not client.images.requires_grad


def test_it_works_without_gradients_enabled():
    client = client_of(small_net(), size=4)
    with torch.no_grad():
        found = share(Soteria(0.5), client)
    assert same(found, share(Soteria(0.5), client))


class Noisy(Sampled):
    def forward(self, x):
        return x * (1 + self.noise(x))


def test_scores_are_of_the_noise_that_the_clients_gradient_met():
    """Noise before the tanh enters the scores; by the gradient's own seed they follow from its model."""
    client = client_of(small_net(Noisy()), batch=2, size=4)
    assert torch.equal(feature_scores(client, "6"), feature_scores(client, "6"))
    other = Client(client.oracle, client.images, client.labels, seed=1)
    assert not torch.allclose(feature_scores(client, "6"), feature_scores(other, "6"))
    client.gradient()
    read = client.oracle._reference.model[:6]
    size = read(client.images).detach().abs()
    images = client.images.clone().requires_grad_(True)
    first = torch.autograd.grad(read(images)[:, 0].sum(), images)[0].flatten(1).norm(dim=1)
    torch.testing.assert_close(feature_scores(client, "6")[0], (first / size[:, 0]).sum())


def test_it_follows_another_defense_in_a_composition():
    client = client_of(small_net(), batch=2, size=4)
    clip, soteria = Clipping(0.01), Soteria(0.5)
    composed = Composed([clip, soteria])
    assert composed.name == "clip:0.01+soteria:0.5"
    found = share(composed, client)
    clipped = share(clip, client)
    chosen = zero_columns(share(soteria, client)["5.weight"])
    clipped["5.weight"][:, chosen] = 0
    assert same(found, clipped)
    view = composed.view(found, "drop", client.model)
    assert view.ignored == {"5.weight"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow("a ResNet-18's Jacobian")] if "resnet" in name else [])
        for name in victims.names()
    ],
)
def test_every_victim_can_be_defended(name):
    """A column is zero before only where its feature is; those go last: the count is of the others."""
    size = 32 if name == "resnet18-imagenet" else 8
    client = client_of(load_victim(name, in_channels=1, num_classes=3, image_size=size), size=size)
    weight = client.gradient()["fc.weight"]
    shared = share(Soteria(0.25), client)["fc.weight"]
    live, gone = ~zero_columns(weight), zero_columns(shared)
    assert (live & gone).sum() == min(weight.shape[1] // 4, live.sum())
    assert torch.equal(shared, weight * ~gone)


def test_an_unknown_layer_is_refused_with_those_there_are():
    client = client_of(small_net(), size=4)
    with pytest.raises(InputError, match=r"^soteria: no linear layer is named 'fc'; there are: 3, 5$"):
        share(Soteria(0.5, layer="fc"), client)


def test_a_model_without_a_linear_layer_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten())
    with pytest.raises(InputError, match=r"^soteria: expected a victim with a linear layer, found none$"):
        share(Soteria(0.5), client_of(model, size=4))


def test_a_layer_that_reads_tokens_is_refused():
    victim = load_victim("vit", in_channels=1, num_classes=3, image_size=8)
    with pytest.raises(InputError, match=r"to read one vector an image, found inputs \(1, 4, 128\)$"):
        share(Soteria(0.5, layer="blocks.0.mlp.0"), client_of(victim))


def test_a_frozen_layer_is_refused():
    model = small_net()
    model[5].requires_grad_(False)
    with pytest.raises(
        InputError, match=r"^soteria: expected layer '5' to be trained, found its weight frozen$"
    ):
        share(Soteria(0.5), client_of(model, size=4))


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(value):
    with pytest.raises(InputError, match=r"^soteria: expected a share from 0 to below 1, found "):
        Soteria(value)


def test_the_name_says_what_differs_from_the_default():
    assert Soteria(0.8).name == "soteria:0.8"
    assert Soteria(0.25, layer="body.1").name == "soteria:0.25,layer=body.1"


@pytest.mark.parametrize("attacker", ["adaptive", "informed"])
def test_the_mask_is_read_off_the_zeros(attacker):
    client = client_of(small_net(), size=4)
    shared = share(Soteria(0.5), client)
    view = Soteria(0.5).view(shared, attacker, client.model)
    (mask,) = view.steps
    assert isinstance(mask, Mask)
    assert set(mask.keep) == {"5.weight"}
    assert torch.equal(mask.keep["5.weight"], shared["5.weight"] != 0)
    assert same(view.apply(client.gradient()), shared)
    assert Soteria(0.5).view(shared, "naive", client.model).steps == ()


@pytest.mark.parametrize("layer", [None, "3"])
def test_drop_leaves_the_layers_weight_out(layer):
    client = client_of(small_net(), size=4)
    defense = Soteria(0.5, layer=layer)
    shared = share(defense, client)
    expected = {"5.weight" if layer is None else "3.weight"}
    assert defense.view(shared, "drop", client.model).ignored == expected
    assert defense.view(shared, "drop").ignored == expected


def test_drop_without_a_matrix_is_refused():
    with pytest.raises(InputError, match="expected the weight of a linear layer, found none"):
        Soteria(0.5).view({"bias": torch.ones(3)}, "drop")
