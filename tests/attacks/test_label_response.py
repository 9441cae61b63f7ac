"""Labels under other losses than cross-entropy: what holds exactly, what is measured, what is refused."""

import pytest
import torch
from gradients.models import seeded
from torch import nn

from ggl.attacks.label_inference import find_head, infer_labels
from ggl.attacks.label_response import last_linear, respond
from ggl.attacks.label_sources import infer_client_labels
from ggl.base.errors import InputError
from ggl.generators import Prior
from ggl.gradients import GradientOracle
from ggl.victims.losses import load_loss

SHAPE, CLASSES = (1, 4, 4), 5
WEIGHED = "cross-entropy:weights=1/2/0.5/3/1"
EXACT = ["cross-entropy", "cross-entropy:smoothing=0.2", "bce", "bce:positive=1", "mse", "nll"]
"""Losses whose answer to a label adds to what the image alone gives: with the batch itself as dummies, counts
are exact."""


class Uniform(Prior):
    """As much of a prior as labels ask for: samples of uniform pixels."""

    latent_dim, image_shape, name, licence = 16, SHAPE, "uniform", "CC0-1.0"

    def sample(self, n, generator):
        return torch.rand(n, 16, generator=generator)

    def decode(self, z, labels=None):
        return z.view(-1, *SHAPE)


def network(classes=CLASSES, bias=True, end=nn.Identity):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.Sigmoid(), nn.Linear(12, classes, bias=bias), end()
    )


def batch(size, classes=CLASSES):
    random = torch.Generator().manual_seed(size)
    return torch.rand(size, *SHAPE, generator=random), torch.randint(classes, (size,), generator=random)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("loss", EXACT)
def test_counts_are_exact_where_the_dummies_are_the_batch(loss, bias):
    model = seeded(lambda: network(bias=bias)).double()
    images, labels = batch(8)
    shared = GradientOracle(model, loss=loss).observe(images, labels)
    head = find_head(shared)
    answer = respond(model, load_loss(loss), head.layer, images, weighed=not bias)
    found = answer.counts(head.evidence, 8)
    expected = torch.bincount(labels, minlength=CLASSES).double()
    if bias:
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    else:  # an image's features weigh its label
        assert (found - expected).abs().max() < 0.3


def test_of_cross_entropy_it_is_geng_s_count_by_the_bias():
    model = seeded(network).double()
    images, labels = batch(6)
    dummies, _ = batch(20)
    shared = GradientOracle(model).observe(images, labels)
    head = find_head(shared)
    answer = respond(model, load_loss("cross-entropy"), head.layer, dummies, weighed=False)
    posterior = model(dummies.double()).softmax(1).mean(0)
    torch.testing.assert_close(answer.counts(head.evidence, 6), 6 * (posterior - head.bias).detach())
    assert answer.is_cross_entropy
    assert answer.is_mean


@pytest.mark.parametrize(
    ("loss", "end", "cross_entropy", "least", "mean"),
    [
        ("cross-entropy", nn.Identity, True, True, True),
        ("cross-entropy", lambda: nn.LogSoftmax(1), True, True, True),
        ("nll", lambda: nn.LogSoftmax(1), True, True, True),
        ("cross-entropy:smoothing=0.1", nn.Identity, False, True, True),
        (WEIGHED, nn.Identity, True, True, False),
        ("focal", nn.Identity, False, True, True),
        ("bce", nn.Identity, False, True, True),
        ("mse", nn.Identity, False, True, True),
        ("cross-entropy", lambda: nn.Softmax(1), False, True, True),
    ],
)
def test_what_kind_of_answer_it_is(loss, end, cross_entropy, least, mean):
    model = seeded(lambda: network(end=end)).double()
    found = respond(model, load_loss(loss), "3", batch(8)[0], weighed=False)
    assert (found.is_cross_entropy, found.is_least, found.is_mean) == (cross_entropy, least, mean)


def test_the_least_row_is_not_the_label_s_of_squared_errors_of_large_logits():
    model = seeded(network).double()
    with torch.no_grad():
        model[3].bias.copy_(torch.tensor([-9.0, 0, 3, 5, 9]))
    found = respond(model, load_loss("mse"), "3", batch(8)[0], weighed=False)
    assert not found.is_least
    oracle = GradientOracle(model, loss="mse")
    for image, label in zip(*batch(5), strict=True):
        shared = oracle.observe(image[None], label[None])
        assert infer_labels(shared, 1).tolist() == [0]  # what cross-entropy's rule says of all of them
        assert infer_client_labels(oracle, shared, 1, Uniform()).tolist() == [int(label)]


@pytest.mark.parametrize("size", [1, 2, 6])
@pytest.mark.parametrize("loss", [*EXACT, "focal", "focal:gamma=0.5"])
def test_a_client_s_labels_are_found_under_any_loss(loss, size):
    oracle = GradientOracle(seeded(network).double(), loss=loss)
    images, labels = batch(size)
    found = infer_client_labels(oracle, oracle.observe(images, labels), size, Uniform())
    assert found.tolist() == labels.sort().values.tolist()


@pytest.mark.parametrize("loss", ["bce", "focal", "mse"])
@pytest.mark.parametrize("labels", [[0], [1], [0, 0], [0, 1], [1, 1, 0, 1]])
def test_one_logit(loss, labels):
    oracle = GradientOracle(seeded(lambda: network(1)).double(), loss=loss)
    images, _ = batch(len(labels))
    found = infer_client_labels(oracle, oracle.observe(images, torch.tensor(labels)), len(labels), Uniform())
    assert found.tolist() == sorted(labels)


def test_a_batch_whose_loss_weighs_its_images_is_refused():
    oracle = GradientOracle(seeded(network).double(), loss=WEIGHED)
    images, labels = batch(3)
    assert infer_client_labels(oracle, oracle.observe(images[:1], labels[:1]), 1, Uniform()).tolist() == [
        int(labels[0])
    ]
    with pytest.raises(
        InputError, match=r"^the labels of a batch cannot be read: its loss 'cross-entropy:weights="
    ):
        infer_client_labels(oracle, oracle.observe(images, labels), 3, Uniform())


class Later(nn.Module):
    """Its head stands before other matrices, among the parameters; one of them runs after it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, CLASSES)
        self.body = nn.Linear(16, 12)
        self.side = nn.Linear(12, CLASSES)

    def forward(self, x):
        hidden = self.body(x.flatten(1)).sigmoid()
        logits = self.fc(hidden)
        return {"logits": logits, "side": self.side(hidden)}


def test_the_head_is_the_layer_that_makes_the_logits():
    model = seeded(Later).double()
    assert last_linear(model, batch(2)[0]) == "fc"
    oracle = GradientOracle(model)
    images, labels = batch(1)
    assert (
        infer_client_labels(oracle, oracle.observe(images, labels), 1, Uniform()).tolist() == labels.tolist()
    )


def test_a_victim_without_such_a_layer_tells_nothing():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 5, 4), nn.Flatten())).double()
    oracle = GradientOracle(model)
    images, labels = batch(1)
    assert infer_client_labels(oracle, oracle.observe(images, labels), 1, Uniform()) is None
