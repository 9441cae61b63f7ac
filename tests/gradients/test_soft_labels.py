"""Labels as probabilities: one-hot ones are classes, and every backend is differentiable in them."""

import pytest
import torch
from gradients.models import MODELS, batch_norm, seeded
from torch import nn
from torch.nn import functional as F

from ggl.base.errors import InputError
from ggl.gradients import Clip, GradientOracle, LocalTraining, View

BACKENDS = ("sequential", "vmap", "layerwise")


def data(batch, dtype=torch.float64):
    random = torch.Generator().manual_seed(5)
    images = torch.rand((3, batch, 3, 8, 8), generator=random, dtype=dtype)
    logits = torch.randn((3, batch, 5), generator=random, dtype=dtype)
    private = torch.rand((batch, 3, 8, 8), generator=random, dtype=dtype)
    return images, logits, private, torch.randint(5, (batch,), generator=random)


def one_hot(labels, dtype):
    return F.one_hot(labels, 5).to(dtype)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["convolution plain", "tokens"])
def test_one_hot_probabilities_are_classes(name, backend, batch):
    model = seeded(MODELS[name])
    images, _, private, labels = data(batch, torch.float32)
    oracle = GradientOracle(model, backend=backend)
    shared, soft = (oracle.observe(private, y) for y in (labels, one_hot(labels, torch.float64)))
    for key, g in shared.items():
        torch.testing.assert_close(soft[key], g, rtol=1e-6, atol=1e-6)
    for distance in ("l2", "cosine"):
        expected = oracle.score(images, labels, shared, distance)
        found = oracle.score(images, one_hot(labels, torch.float32), shared, distance)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_client_with_soft_labels_shares_the_gradient_of_its_loss():
    model = seeded(MODELS["group norm"]).double()
    _, logits, private, _ = data(3)
    labels = logits[0].softmax(-1)
    found = GradientOracle(model).observe(private, labels)
    loss = -(labels * model(private).log_softmax(1)).sum(1).mean()
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for g, e in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(g, e)


@pytest.mark.parametrize("with_images", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ["convolution plain", "in-place residual", "tokens", "batch norm"])
def test_scores_are_differentiable_in_the_probabilities(name, batch, with_images):
    model = seeded(lambda: batch_norm(train=True)) if name == "batch norm" else seeded(MODELS[name])
    model = model.double()
    if name == "batch norm" and batch == 1:
        batch = 3
    images, logits, private, labels = data(batch)
    oracles = {backend: GradientOracle(model, backend=backend) for backend in BACKENDS}
    shared = oracles["sequential"].observe(private, labels)
    norm = torch.stack([g.norm() for g in shared.values()]).norm().item()
    views = [oracles["sequential"].prepare(v) for v in (View(shared), View(shared, (Clip(0.1 * norm),)))]
    found = {}
    for backend, oracle in oracles.items():
        x = images.clone().requires_grad_(with_images)
        z = logits.clone().requires_grad_()
        scores = oracle.score_groups(x, z.softmax(-1), views, [2, 1])
        inputs = [x, z] if with_images else [z]
        found[backend] = (scores.detach(), *torch.autograd.grad(scores.sum(), inputs))
    for backend in ("vmap", "layerwise"):
        for value, expected in zip(found[backend], found["sequential"], strict=True):
            torch.testing.assert_close(value, expected)
    assert found["sequential"][-1].abs().sum() > 0


def test_the_slope_in_the_probabilities_is_that_of_differences():
    model = seeded(MODELS["convolution plain"]).double()
    images, logits, private, labels = data(2)
    oracle = GradientOracle(model, backend="sequential")
    view = oracle.prepare(View(oracle.observe(private, labels)))
    y = logits.softmax(-1).requires_grad_()
    (slope,) = torch.autograd.grad(oracle.score_groups(images, y, [view], [3]).sum(), y)
    step = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ahead, behind = (oracle.score_groups(images, y.detach() + h * step, [view], [3]) for h in (1e-5, -1e-5))
    expected = (ahead - behind) / 2e-5
    torch.testing.assert_close((slope * step).sum((1, 2)), expected, rtol=1e-5, atol=1e-9)


def test_auto_is_differentiable_from_the_first_call_on():
    oracle = GradientOracle(seeded(MODELS["group norm"]).double())
    images, logits, private, labels = data(2)
    view = oracle.prepare(View(oracle.observe(private, labels)))
    z = logits.clone().requires_grad_()
    oracle.score_groups(images, z.softmax(-1), [view], [3]).sum().backward()
    assert oracle.backend == "layerwise"
    assert z.grad.abs().sum() > 0
    assert not oracle.score_groups(images, logits.softmax(-1), [view], [3]).requires_grad


@pytest.mark.parametrize("backend", ["sequential", "vmap"])
def test_local_steps_take_probabilities(backend):
    model = seeded(MODELS["convolution plain"]).double()
    local = LocalTraining(3, 0.1, momentum=0.5, batch_size=1)
    images, logits, private, labels = data(2)
    oracle = GradientOracle(model, local=local, backend=backend)
    shared = oracle.observe(private, labels)
    soft = oracle.observe(private, one_hot(labels, torch.float64))
    for key, g in shared.items():
        torch.testing.assert_close(soft[key], g)
    y = logits.softmax(-1).requires_grad_()
    view = oracle.prepare(View(shared))
    (slope,) = torch.autograd.grad(oracle.score_groups(images, y, [view], [3]).sum(), y)
    reference = GradientOracle(model, local=local, backend="sequential")
    (expected,) = torch.autograd.grad(reference.score_groups(images, y, [view], [3]).sum(), y)
    torch.testing.assert_close(slope, expected)
    assert (slope.abs().sum((0, 2)) > 0).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            torch.ones(2, 4) / 4,
            "expected soft labels of 5 probabilities, one a class of the victim, found 4",
        ),
        (
            torch.tensor([[1.5, -0.5, 0, 0, 0]] * 2),
            "expected soft labels that are probabilities, found -0.5; use softmax",
        ),
        (torch.ones(2, 5), "expected soft labels that add up to 1 an image, found 5; use softmax"),
    ],
)
def test_labels_that_are_no_probabilities(labels, message):
    oracle = GradientOracle(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))
    with pytest.raises(InputError) as error:
        oracle.observe(torch.rand(2, 3, 8, 8), labels)
    assert str(error.value) == message


def test_scoring_refuses_probabilities_of_other_classes():
    model = seeded(MODELS["group norm"]).double()
    images, _, private, labels = data(2)
    oracle = GradientOracle(model)
    shared = oracle.observe(private, labels)
    with pytest.raises(InputError, match=r"expected soft labels of 5 probabilities, .* found 4"):
        oracle.score(images, torch.ones(2, 4) / 4, shared)
