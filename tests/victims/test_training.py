"""Training of victims: by an independent loop, deterministic, states at marks, and what is refused."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ggl.base.errors import GradientError, InputError
from ggl.victims import load_victim
from ggl.victims.training import train_victim

CLASSES, SIDE = 3, 8


def blobs(n=60, seed=0):
    """Images of three classes whose brightest row tells the class: linearly separable."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    images = 0.6 * torch.rand(n, 1, SIDE, SIDE, generator=random)
    images[torch.arange(n), :, labels] += 0.4
    return images, labels


def mlp(seed=0):
    return load_victim("mlp", in_channels=1, num_classes=CLASSES, image_size=SIDE, seed=seed)


def states(model, data=None, **options):
    chosen = {"marks": (0, 2, 5), "learning_rate": 0.1, "batch_size": 16, **options}
    return list(train_victim(model, *(data or blobs()), **chosen))


class Noisy(nn.Module):
    """Batch normalization and dropout before a linear head."""

    def __init__(self, dropout=0.5):
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm2d(1), nn.Dropout(dropout)
        self.fc = nn.Linear(SIDE * SIDE, CLASSES)

    def forward(self, x):
        return self.fc(self.dropout(self.norm(x).flatten(1)))


def noisy(dropout=0.5):
    torch.manual_seed(0)
    return Noisy(dropout)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_full_batches_give_gradient_descent_with_momentum():
    """By hand, in float64: v ← m v + g, w ← w - lr v, on all images, whose order is of no importance."""
    model, (images, labels) = mlp().double(), blobs()
    images = images.double()
    found = states(model, (images, labels), marks=(1, 4), batch_size=100, learning_rate=0.05, momentum=0.8)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in weights.items()}
    for step in range(1, 5):
        leaves = {name: p.clone().requires_grad_() for name, p in weights.items()}
        loss = F.cross_entropy(torch.func.functional_call(model, leaves, (images,)), labels)
        for name, g in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            velocity[name] = 0.8 * velocity[name] + g
            weights[name] = weights[name] - 0.05 * velocity[name]
        for state in found:
            if state.step == step:
                torch.testing.assert_close(state.tensors, weights)


def test_the_first_mark_is_the_model_as_it_is_and_the_model_stays_so():
    model = mlp().eval()
    before = copy.deepcopy(model.state_dict())
    found = states(model)
    assert [state.step for state in found] == [0, 2, 5]
    assert same(found[0].tensors, before)
    assert same(model.state_dict(), before)
    assert not model.training
    assert not same(found[1].tensors, found[2].tensors)


def test_marks_do_not_change_the_training():
    assert same(states(mlp(), marks=(7,))[0].tensors, states(mlp(), marks=(0, 1, 6, 7))[-1].tensors)


def test_the_seed_defines_the_training_and_the_global_stream_stays():
    torch.manual_seed(1)
    first = states(noisy(), seed=3)
    torch.manual_seed(2)
    stream = torch.get_rng_state()
    model = copy.deepcopy(noisy())
    torch.set_rng_state(stream)
    again, other = states(model, seed=3), states(model, seed=4)
    assert torch.equal(torch.get_rng_state(), stream)
    assert same(first[-1].tensors, again[-1].tensors)
    assert not same(first[-1].tensors, other[-1].tensors)


def test_dropout_drops_while_training():
    assert not same(states(noisy(0.5))[-1].tensors, states(noisy(0.0))[-1].tensors)


def test_batch_normalization_updates_its_running_statistics():
    """After one step on all images: 0.9 · (0, 1) + 0.1 · (mean, unbiased variance), as torch states it."""
    images, labels = blobs()
    found = states(noisy(), (images, labels), marks=(1,), batch_size=60)[0].tensors
    assert found["norm.running_mean"].item() == pytest.approx(0.1 * images.mean().item(), rel=1e-5)
    assert found["norm.running_var"].item() == pytest.approx(0.9 + 0.1 * images.var().item(), rel=1e-5)
    assert found["norm.num_batches_tracked"].item() == 1


def test_every_epoch_meets_every_image_once_but_the_rest_that_fills_no_batch():
    met = []

    class Recorder(Noisy):
        def forward(self, x):
            if self.training:
                met.append(x[:, 0, 0, 0].tolist())
            return super().forward(x)

    images, labels = blobs(10)
    images[:, 0, 0, 0] = torch.arange(10) / 10
    states(Recorder(), (images, labels), marks=(6,), batch_size=3)
    epochs = [[x for batch in part for x in batch] for part in (met[:3], met[3:])]
    assert [len(batch) for batch in met] == [3] * 6
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_training_fits_and_progress_counts_every_step():
    images, labels = blobs()
    steps, model = [], mlp()
    last = states(model, marks=(100,), progress=steps.append)[-1]
    model.load_state_dict(last.tensors)
    assert (model(images).argmax(1) == labels).double().mean() > 0.95
    assert steps == list(range(1, 101))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"marks": ()}, "expected marks as ascending step counts from 0 on, such as 0,300,3000; found none"),
        ({"marks": (0, 5, 5)}, "expected marks as ascending .*; found 0,5,5"),
        ({"marks": (-1, 5)}, "expected marks as ascending .*; found -1,5"),
        ({"batch_size": 0}, "expected a batch size of at least 1, found 0"),
        ({"learning_rate": 0.0}, "expected a learning rate above 0, found 0"),
        ({"learning_rate": math.nan}, "expected a learning rate above 0, found nan"),
        ({"momentum": 1.0}, r"expected a momentum in \[0, 1\), found 1"),
    ],
)
def test_values_out_of_range_are_refused_before_the_training(options, message):
    chosen = {"marks": (1,), "learning_rate": 0.1, **options}
    with pytest.raises(InputError, match=f"^training a victim: {message}$"):
        train_victim(mlp(), *blobs(), **chosen)


def test_no_images_are_refused():
    images, labels = blobs()
    with pytest.raises(InputError, match="at least one image and one label for each, found 0 images and 0"):
        train_victim(mlp(), images[:0], labels[:0], marks=(1,), learning_rate=0.1)


def test_a_training_that_diverges_says_so():
    with pytest.raises(
        GradientError, match=r"^training a victim: it diverged within \d+ steps: take a learning rate below 1"
    ):
        states(mlp(), marks=(50,), learning_rate=1e30)
