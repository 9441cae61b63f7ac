"""Every loss in every backend: what a client shares is torch's gradient of the batch's loss."""

import pytest
import torch
from gradients.models import batch_norm, convolution, seeded
from torch import nn
from torch.nn import functional as F

from ggl.base.errors import InputError
from ggl.gradients import GradientOracle, LocalTraining, View
from ggl.gradients.residuals import GradientResiduals, is_separable
from ggl.gradients.sampled import Trial

WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0], dtype=torch.float64)
WEIGHED = "cross-entropy:smoothing=0.1,weights=1/2/0.5/3/1"


def summed(logits, labels):
    """A client's loss that is a sum, and mixes the images of a batch."""
    return F.cross_entropy(logits, labels, reduction="sum") + logits.mean(0).square().sum()


def one_hot(labels):
    return F.one_hot(labels, 5).double()


LOSSES = {
    "cross-entropy:smoothing=0.1": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
    WEIGHED: lambda z, y: F.cross_entropy(z, y, WEIGHTS, label_smoothing=0.1),
    "bce": lambda z, y: F.binary_cross_entropy_with_logits(z, one_hot(y)),
    "mse": lambda z, y: F.mse_loss(z, one_hot(y)),
    "nll": F.nll_loss,
    "focal": lambda z, y: -((1 - z.softmax(1)) ** 2 * z.log_softmax(1)).gather(1, y[:, None]).mean(),
    summed: summed,
}
MODELS = {"convolution": convolution, "batch norm": lambda: batch_norm(True)}


def data(batch=2):
    random = torch.Generator().manual_seed(3)
    images = torch.rand((4, batch, 3, 8, 8), generator=random, dtype=torch.float64)
    return (
        images,
        torch.arange(batch) % 5 + 1,
        torch.rand((batch, 3, 8, 8), generator=random, dtype=torch.float64),
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_shared_is_torchs_gradient(loss, model):
    victim = seeded(MODELS[model]).double()
    _, labels, private = data()
    found = GradientOracle(victim, loss=loss).observe(private, labels)
    expected = torch.autograd.grad(LOSSES[loss](victim(private), labels), list(victim.parameters()))
    for g, e in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(g, e)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_backends_agree(loss, model, batch):
    victim = seeded(MODELS[model]).double()
    images, labels, private = data(batch)
    shared = GradientOracle(victim, loss=loss).observe(private, labels)
    found = {
        backend: GradientOracle(victim, loss=loss, backend=backend).score(images, labels, shared)
        for backend in ("sequential", "vmap", "layerwise")
    }
    torch.testing.assert_close(found["vmap"], found["sequential"])
    torch.testing.assert_close(found["layerwise"], found["sequential"])


@pytest.mark.parametrize("loss", ["bce", WEIGHED])
def test_local_steps_take_the_loss(loss):
    victim = seeded(convolution).double()
    images, labels, private = data()
    local = LocalTraining(2, 0.1, batch_size=1)
    oracle = GradientOracle(victim, loss=loss, local=local)
    found = oracle.observe(private, labels)
    trained = seeded(convolution).double()
    optimizer = torch.optim.SGD(trained.parameters(), 0.1)
    for i in range(2):
        optimizer.zero_grad()
        LOSSES[loss](trained(private[[i]]), labels[[i]]).backward()
        optimizer.step()
    for (name, before), after in zip(victim.named_parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(found[name], (before - after) / 0.1)
    sequential = GradientOracle(victim, loss=loss, local=local, backend="sequential")
    torch.testing.assert_close(oracle.score(images, labels, found), sequential.score(images, labels, found))


def test_a_batch_s_weighted_loss_is_not_taken_apart():
    _, labels, private = data()
    victim = seeded(convolution).double()
    plain, weighed = GradientOracle(victim, loss="bce"), GradientOracle(victim, loss=WEIGHED)
    for oracle, apart in ((plain, True), (weighed, False)):
        view = View(oracle.observe(private, labels))
        assert is_separable(oracle, view) is apart
        residuals = GradientResiduals(oracle, [oracle.prepare(view)], "l2", Trial())
        _, values = residuals.measure(private[None], labels[None], [0], [1])
        assert values.shape[1] == (2 if apart else 1)
        torch.testing.assert_close(values.sum(1), residuals.targets)


def binary(squeeze=False):
    class Binary(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(192, 1)

        def forward(self, x):
            z = self.head(x.flatten(1))
            return z.squeeze(1) if squeeze else z

    return Binary()


@pytest.mark.parametrize("squeeze", [False, True])
def test_one_logit(squeeze):
    victim = seeded(lambda: binary(squeeze)).double()
    images, _, private = data()
    labels = torch.tensor([0, 1])
    oracle = GradientOracle(victim, loss="bce")
    found = oracle.observe(private, labels)
    loss = F.binary_cross_entropy_with_logits(victim(private).flatten(), labels.double())
    (expected,) = torch.autograd.grad(loss, victim.head.weight)
    torch.testing.assert_close(found["head.weight"], expected)
    assert oracle.count_classes((3, 8, 8)) == 2
    layerwise = GradientOracle(victim, loss="bce", backend="layerwise")
    torch.testing.assert_close(layerwise.score(images, labels, found), oracle.score(images, labels, found))
    with pytest.raises(InputError, match=r"^expected labels from 0 to 1, which the victim has; found 2$"):
        oracle.observe(private, labels + 1)
    with pytest.raises(
        InputError, match=r"^the victim has one output, of which the loss cross-entropy is the same"
    ):
        GradientOracle(victim).observe(private, labels)


def test_many_labels():
    victim = seeded(convolution).double()
    _, _, private = data()
    many = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1]]).double()
    found = GradientOracle(victim, loss="bce").observe(private, many)
    loss = F.binary_cross_entropy_with_logits(victim(private), many)
    for g, parameter in zip(found.values(), victim.parameters(), strict=True):
        torch.testing.assert_close(g, torch.autograd.grad(loss, parameter, retain_graph=True)[0])
    with pytest.raises(
        InputError, match=r"^expected soft labels that add up to 1 an image, found 3; use softmax$"
    ):
        GradientOracle(victim).observe(private, many)
    with pytest.raises(InputError, match=r"^expected labels from 0 to 1 for every output, found 0.0 to 2.0$"):
        GradientOracle(victim, loss="bce").observe(private, 2 * many)


def test_what_a_loss_returns_is_checked():
    _, labels, private = data()
    oracle = GradientOracle(seeded(convolution).double(), loss=lambda z, _: z)
    with pytest.raises(
        InputError, match=r"expected losses \(2,\), one an image, or one number, found shape \(2, 5\)"
    ):
        oracle.observe(private, labels)
