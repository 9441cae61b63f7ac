"""Several local steps: what is shared, and candidates' scores, equal a loop of torch.optim.SGD."""

import copy
import math

import pytest
import torch
from gradients.models import MODELS, batch_norm, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ggl.base.errors import GradientError, InputError
from ggl.gradients import BackendWarning, Clip, GradientOracle, LocalTraining, Mask, Sampled, View
from ggl.victims import load_victim

BACKENDS = ("sequential", "vmap")
LOCALS = {
    "one step": LocalTraining(1, 0.1),
    "whole batch": LocalTraining(3, 0.1),
    "momentum": LocalTraining(3, 0.1, momentum=0.9),
    "minibatches of one": LocalTraining(3, 0.05, batch_size=1),
    "minibatches that wrap, momentum": LocalTraining(4, 0.05, momentum=0.5, batch_size=2),
}


def data(batch, dtype=torch.float64, shape=(3, 8, 8), classes=5, candidates=3):
    random = torch.Generator().manual_seed(7)
    images = torch.rand((candidates, batch, *shape), generator=random, dtype=dtype)
    labels = torch.randint(classes, (batch,), generator=random)
    return images, labels, torch.rand((batch, *shape), generator=random, dtype=dtype)


def sgd_update(model, images, labels, local):
    """Train a copy by torch's own SGD, and take the difference."""
    trained = copy.deepcopy(model)
    optimizer = torch.optim.SGD(trained.parameters(), local.learning_rate, local.momentum)
    size = local.batch_size or len(images)
    endless = torch.arange(local.steps * size) % len(images)
    for rows in endless.split(size):
        optimizer.zero_grad()
        F.cross_entropy(trained(images[rows]), labels[rows]).backward()
        optimizer.step()
    after = dict(trained.named_parameters())
    return {name: (w - after[name]).detach() / local.learning_rate for name, w in model.named_parameters()}


def slow_scores(model, candidates, labels, local, target, distance="l2", keep=None):
    """One candidate after the other, all by hand."""
    scores = []
    for images in candidates:
        update = sgd_update(model, images, labels, local)
        keep_all = keep or {name: torch.ones_like(g) for name, g in update.items()}
        u = torch.cat([(g * keep_all[name]).flatten() for name, g in update.items()])
        t = torch.cat([target[name].flatten() for name in update])
        scores.append((u - t).square().sum() if distance == "l2" else 1 - F.cosine_similarity(u, t, dim=0))
    return torch.stack(scores)


@pytest.mark.parametrize("local", LOCALS.values(), ids=LOCALS)
@pytest.mark.parametrize("name", ["convolution plain", "tokens"])
def test_the_observed_update_is_that_of_sgd(name, local):
    model = seeded(MODELS[name]).double()
    _, labels, private = data(3)
    found = GradientOracle(model, local=local).observe(private, labels)
    expected = sgd_update(model, private, labels, local)
    for key, update in found.items():
        torch.testing.assert_close(update, expected[key], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("batch", "size"), [(1, None), (2, 1)])
@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_scores_equal_a_loop_over_candidates(name, batch, size):
    model = load_victim(name, in_channels=1, num_classes=10, image_size=32, seed=3)
    local = LocalTraining(3, 0.05, momentum=0.5, batch_size=size)
    images, labels, private = data(batch, torch.float32, (1, 32, 32), 10)
    shared = GradientOracle(model, local=local).observe(private, labels)
    random = torch.Generator().manual_seed(2)
    mask = Mask({key: torch.rand(g.shape, generator=random) < 0.3 for key, g in shared.items()})
    masked = mask.apply(shared)
    for backend in BACKENDS:
        oracle = GradientOracle(model, local=local, backend=backend)
        for distance in ("l2", "cosine"):
            expected = slow_scores(model, images, labels, local, shared, distance)
            found = oracle.score(images, labels, shared, distance)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
            expected = slow_scores(model, images, labels, local, masked, distance, mask.keep)
            found = oracle.score(images, labels, View(masked, (mask,)), distance)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow("a residual network in several steps")
@pytest.mark.parametrize(("batch", "size"), [(1, None), (2, 1)])
@pytest.mark.parametrize("name", ["resnet18", "resnet18-groupnorm"])
def test_scores_of_a_residual_network_equal_a_loop(name, batch, size):
    """Batch normalization in eval mode: the running statistics stay what they are."""
    model = load_victim(name, in_channels=1, num_classes=10, image_size=16, seed=3)
    local = LocalTraining(2, 1e-3, batch_size=size)
    images, labels, private = data(batch, torch.float32, (1, 16, 16), 10, candidates=2)
    oracle = GradientOracle(model, local=local, backend="vmap")
    shared = oracle.observe(private, labels)
    expected = slow_scores(model, images, labels, local, shared)
    torch.testing.assert_close(oracle.score(images, labels, shared), expected, rtol=1e-4, atol=0.0)


def test_batch_normalization_in_train_mode_uses_each_minibatchs_statistics():
    model = seeded(lambda: batch_norm(train=True)).double()
    local = LocalTraining(2, 0.05, batch_size=2)
    images, labels, private = data(4)
    for backend in BACKENDS:
        oracle = GradientOracle(model, local=local, backend=backend)
        shared = oracle.observe(private, labels)
        expected = slow_scores(model, images, labels, local, shared)
        torch.testing.assert_close(oracle.score(images, labels, shared), expected)
        again = oracle.observe(private, labels)
        assert all(torch.equal(again[name], update) for name, update in shared.items())


@pytest.mark.parametrize("ignored", [frozenset(), frozenset({"0.bias", "6.weight"})])
def test_every_kind_of_view_agrees(ignored):
    model = seeded(MODELS["convolution plain"]).double()
    local = LocalTraining(2, 0.1, momentum=0.5)
    images, labels, private = data(2)
    shared = GradientOracle(model, local=local).observe(private, labels)
    clip = Clip({name: 0.5 * g.norm().item() for name, g in shared.items()})
    for view in (
        View(shared, (Clip(0.1),), ignored),
        View(shared, (clip,), ignored, both=(Clip(1e-3),)),
        View(shared, ignored=ignored, distance="orthogonal"),
    ):
        slow, fast = (
            GradientOracle(model, local=local, backend=backend).score(images, labels, view)
            for backend in BACKENDS
        )
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("backend", ["auto", "layerwise", "sequential", "vmap"])
def test_one_step_is_the_gradient_exactly(backend, size):
    model = seeded(MODELS["tokens"])
    images, labels, private = data(2, torch.float32)
    bare = GradientOracle(model, backend=backend)
    stepped = GradientOracle(model, backend=backend, local=LocalTraining(1, 0.3, 0.9, size))
    shared, update = (oracle.observe(private, labels) for oracle in (bare, stepped))
    assert all(torch.equal(update[name], g) for name, g in shared.items())
    assert torch.equal(stepped.score(images, labels, shared), bare.score(images, labels, shared))
    assert stepped.backend == bare.backend


def test_one_step_on_a_minibatch_is_its_gradient():
    model = seeded(MODELS["tokens"])
    images, labels, private = data(3, torch.float32)
    bare = GradientOracle(model, backend="layerwise")
    stepped = GradientOracle(model, backend="layerwise", local=LocalTraining(1, 0.3, batch_size=2))
    shared = bare.observe(private[:2], labels[:2])
    update = stepped.observe(private, labels)
    assert all(torch.equal(update[name], g) for name, g in shared.items())
    found = stepped.score(images, labels, shared)
    assert torch.equal(found, bare.score(images[:, :2], labels[:2], shared))


def test_vanishing_steps_sum_the_gradient():
    """With η → 0 the weights stand still: v₁ + v₂ + v₃ = (1 + 1.5 + 1.75) g at m = 0.5."""
    model = seeded(MODELS["group norm"]).double()
    _, labels, private = data(2)
    gradient = GradientOracle(model).observe(private, labels)
    update = GradientOracle(model, local=LocalTraining(3, 1e-12, 0.5)).observe(private, labels)
    for name, g in gradient.items():
        torch.testing.assert_close(update[name], 4.25 * g, rtol=1e-6, atol=1e-12)


def test_scores_are_differentiable_in_the_candidates():
    model = seeded(MODELS["in-place residual"]).double()
    local = LocalTraining(3, 0.05, momentum=0.5, batch_size=1)
    images, labels, private = data(2)
    shared = GradientOracle(model, local=local).observe(private, labels)
    slopes = []
    for backend in BACKENDS:
        x = images.clone().requires_grad_()
        oracle = GradientOracle(model, local=local, backend=backend)
        oracle.score(x, labels, shared, "cosine").sum().backward()
        slopes.append(x.grad)
        assert not oracle.score(images, labels, shared).requires_grad
    torch.testing.assert_close(slopes[1], slopes[0])
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ahead, behind = (oracle.score(images + h * direction, labels, shared, "cosine") for h in (1e-5, -1e-5))
    slope = (slopes[0] * direction).sum((1, 2, 3, 4))
    torch.testing.assert_close(slope, (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-9)


def test_the_private_batch_scores_zero_and_groups_equal_single_calls():
    local = LocalTraining(3, 0.1)
    oracle = GradientOracle(seeded(MODELS["group norm"]).double(), local=local, chunk_size=2)
    images, labels, _ = data(2, candidates=5)
    views = [oracle.prepare(View(oracle.observe(x, labels))) for x in images[:2]]
    together = oracle.score_groups(images, labels.expand(5, -1), views, [3, 2])
    assert oracle.backend == "vmap"
    assert together[0] < 1e-20
    torch.testing.assert_close(together[:3], oracle.score(images[:3], labels, views[0]))
    torch.testing.assert_close(together[3:], oracle.score(images[3:], labels, views[1]))


def test_bfloat16_scores_are_near_and_observing_stays_exact():
    model = load_victim("convnet", in_channels=1, num_classes=10, image_size=32, seed=0)
    local = LocalTraining(2, 0.01)
    images, labels, private = data(1, torch.float32, (1, 32, 32), 10)
    exact, rough = (GradientOracle(model, local=local, precision=p) for p in ("float32", "bfloat16"))
    shared = exact.observe(private, labels)
    assert all(torch.equal(rough.observe(private, labels)[name], g) for name, g in shared.items())
    found, expected = (oracle.score(images, labels, shared) for oracle in (rough, exact))
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.0)


NORMALIZED = {
    "layer": MODELS["tokens"],
    "batch, train": lambda: batch_norm(train=True),
    "instance": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.Tanh(), nn.Flatten(), nn.Linear(216, 5)
    ),
    "group": MODELS["group norm"],
}


@pytest.mark.parametrize("local", [None, LocalTraining(2, 0.05, 0.5, 2)], ids=["gradient", "two steps"])
@pytest.mark.parametrize("build", NORMALIZED.values(), ids=NORMALIZED)
def test_slopes_through_normalization_agree(build, local):
    """torch.func alone takes the statistics for constants in a second derivative."""
    model = seeded(build).double()
    images, labels, private = data(4)
    slopes = []
    for backend in BACKENDS:
        oracle = GradientOracle(model, local=local, backend=backend)
        x = images.clone().requires_grad_()
        oracle.score(x, labels, oracle.observe(private, labels), "cosine").sum().backward()
        slopes.append(x.grad)
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-7, atol=1e-10)


class Branches(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, 5)

    def forward(self, x):
        x = self.head(x.flatten(1))
        return x if x.mean() > 0 else torch.tanh(x)


def test_a_model_out_of_reach_falls_back_to_the_loop_and_says_so():
    local = LocalTraining(2, 0.1)
    model = seeded(Branches).double()
    images, labels, private = data(1)
    oracle = GradientOracle(model, local=local)
    shared = oracle.observe(private, labels)
    with pytest.warns(BackendWarning, match="scoring by the sequential backend \\(vmap: "):
        found = oracle.score(images, labels, shared)
    torch.testing.assert_close(found, slow_scores(model, images, labels, local, shared))


def test_frozen_parameters_stay_and_are_not_shared():
    model = seeded(MODELS["group norm"]).double()
    model[0].weight.requires_grad_(False)
    local = LocalTraining(3, 0.1)
    images, labels, private = data(2)
    oracle = GradientOracle(model, local=local, backend="vmap")
    shared = oracle.observe(private, labels)
    expected = sgd_update(model, private, labels, local)
    assert shared.keys() == expected.keys() - {"0.weight"}
    assert expected["0.weight"].norm() == 0
    torch.testing.assert_close(shared["4.weight"], expected["4.weight"])
    del expected["0.weight"]
    torch.testing.assert_close(
        oracle.score(images, labels, shared),
        GradientOracle(model, local=local, backend="sequential").score(images, labels, shared),
    )


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))
def test_every_image_is_taken_equally_often(images, size, rounds):
    size = min(size, images)
    local = LocalTraining(rounds * images, 0.1, batch_size=size)
    taken = [row for step in range(local.steps) for row in local.rows(step, images)]
    assert [taken.count(i) for i in range(images)] == [rounds * size] * images
    assert taken[:images] == list(range(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.1), "expected at least 1 local step, found 0"),
        ((1, 0.0), "expected a finite local learning rate above 0, found 0.0"),
        ((1, -0.1), "expected a finite local learning rate above 0, found -0.1"),
        ((1, math.inf), "expected a finite local learning rate above 0, found inf"),
        ((1, math.nan), "expected a finite local learning rate above 0, found nan"),
        ((1, 0.1, 1.0), "expected a local momentum from 0 to below 1, found 1.0"),
        ((1, 0.1, -0.5), "expected a local momentum from 0 to below 1, found -0.5"),
        ((1, 0.1, 0.0, 0), "expected at least 1 image in a local minibatch, found 0"),
    ],
)
def test_numbers_out_of_range(arguments, message):
    with pytest.raises(InputError) as error:
        LocalTraining(*arguments)
    assert str(error.value) == message


@pytest.mark.parametrize("steps", [1, 3])
def test_a_minibatch_larger_than_the_batch(steps):
    message = "expected a local minibatch of at most the client's 2 images, found 3; lower the batch size"
    images, labels, private = data(2)
    oracle = GradientOracle(seeded(MODELS["group norm"]).double(), local=LocalTraining(steps, 0.1, 0.0, 3))
    with pytest.raises(InputError) as error:
        oracle.observe(private, labels)
    assert str(error.value) == message
    with pytest.raises(InputError) as error:
        oracle.score(images, labels, GradientOracle(oracle.model).observe(private, labels))
    assert str(error.value) == message


def test_layerwise_by_name_refuses_local_steps():
    with pytest.raises(InputError) as error:
        GradientOracle(seeded(MODELS["group norm"]), backend="layerwise", local=LocalTraining(5, 0.1))
    assert str(error.value) == (
        "the layerwise backend can't take 5 local steps, after the first of which every candidate has "
        "weights of its own; use backend='auto' or 'vmap'"
    )


class Noisy(Sampled):
    def forward(self, x):
        return x + self.noise(x)


@pytest.mark.parametrize(("layer", "found"), [(Noisy(), "Noisy"), (nn.Dropout(0.5), "SampledDropout")])
def test_a_victim_that_samples_takes_one_step_only(layer, found):
    model = seeded(lambda: nn.Sequential(nn.Flatten(), layer, nn.Linear(192, 5)))
    assert GradientOracle(model, local=LocalTraining(1, 0.1)).is_sampled
    with pytest.raises(InputError) as error:
        GradientOracle(model, local=LocalTraining(2, 0.1))
    assert str(error.value) == (
        "2 local steps of a victim that draws noise at every step are not supported, found "
        f"'1' ({found}); use one step of SGD, or for dropout call eval()"
    )


def test_a_training_that_diverges_says_at_which_learning_rate():
    oracle = GradientOracle(seeded(MODELS["group norm"]), local=LocalTraining(6, 1e30))
    _, labels, private = data(2, torch.float32)
    with pytest.raises(
        GradientError, match="the update of 6 local steps at learning rate 1e\\+30 is not finite"
    ):
        oracle.observe(private, labels)


def shuffled(order, steps=6, size=2):
    return LocalTraining(steps, 0.05, batch_size=size, order=order, order_seed=5)


def test_shuffled_epochs_are_a_loop_of_sgd_over_permutations():
    model = seeded(MODELS["convolution plain"]).double()
    _, labels, private = data(4)
    local = shuffled("known")
    rows = [local.rows(step, 4) for step in range(local.steps)]
    epochs = [rows[0] + rows[1], rows[2] + rows[3], rows[4] + rows[5]]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3]] * 3
    assert len({tuple(epoch) for epoch in epochs}) > 1
    order = [row for epoch in epochs for row in epoch]
    in_order = LocalTraining(6, 0.05, batch_size=2)
    expected = sgd_update(model, private[order], labels[order], in_order)
    for name in ("known", "guessed", "whole", "copies"):
        found = GradientOracle(model, local=shuffled(name)).observe(private, labels)
        for key, update in found.items():
            torch.testing.assert_close(update, expected[key], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_an_attacker_makes_of_an_unknown_order(backend):
    model = seeded(MODELS["convolution plain"]).double()
    images, labels, private = data(4)
    target = GradientOracle(model, local=shuffled("known")).observe(private, labels)

    def scores(order, candidates, labels=labels):
        oracle = GradientOracle(model, local=shuffled(order), backend=backend)
        return oracle.score(candidates, labels, target)

    assert scores("known", private[None])[0] < 1e-20
    assert scores("guessed", private[None])[0] > 1e-6
    whole = slow_scores(model, images, labels, LocalTraining(6, 0.05), target)
    torch.testing.assert_close(scores("whole", images), whole)
    # copies in the order that the client met them match exactly, whatever that order was
    order = [row for step in range(6) for row in shuffled("known").rows(step, 4)]
    assert scores("copies", private[order][None], labels[order])[0] < 1e-20


@pytest.mark.parametrize(("steps", "size", "images"), [(6, 3, 4), (5, 2, 4), (6, None, 4), (6, 4, 4)])
def test_shuffled_epochs_are_whole_and_of_smaller_minibatches(steps, size, images):
    local = LocalTraining(steps, 0.05, batch_size=size, order="copies")
    with pytest.raises(InputError, match="expected smaller minibatches that divide the 4 images, and whole"):
        local.check(images)


def test_an_order_that_is_not_known():
    with pytest.raises(InputError, match="no order of local steps is named 'copy'; did you mean 'copies'"):
        LocalTraining(2, 0.1, order="copy")
    with pytest.raises(InputError, match="expected a finite tie of copies of at least 0, found -1"):
        LocalTraining(2, 0.1, tie=-1.0)
