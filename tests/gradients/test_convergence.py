"""What is left of a converged victim's gradients, and the warning where it is next to nothing."""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ggl.base.errors import GradientError, InputError
from ggl.gradients import GradientOracle
from ggl.gradients.convergence import ConvergedVictimWarning, gradient_health, warn_if_converged
from ggl.victims import load_victim

CLASSES, SIDE = 4, 8


def images(n=3, seed=0):
    return torch.rand(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def lenet(seed=0):
    return load_victim("lenet", in_channels=1, num_classes=CLASSES, image_size=SIDE, seed=seed)


class Linear(nn.Module):
    """Logits that are a chosen vector plus W x, W being zero: p is known by hand."""

    def __init__(self, logits):
        super().__init__()
        self.fc = nn.Linear(SIDE * SIDE, len(logits))
        with torch.no_grad():
            self.fc.weight.zero_()
            self.fc.bias.copy_(torch.tensor(logits))

    def forward(self, x):
        return self.fc(x.flatten(1))


def confident(margin, n=3):
    """A victim of zero weights that gives class 0 the probability 1 / (1 + (n - 1) exp(-margin))."""
    return GradientOracle(Linear([margin, *[0.0] * (n - 1)]))


def norm(model, image, label):
    """The slow way: all classes' gradients by plain autograd, concatenated."""
    loss = F.cross_entropy(model(image[None]), torch.tensor([label]))
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]).norm().item()


def caught(oracle, x, y, **options):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        health = warn_if_converged(oracle, x, y, **options)
    return found, health


def test_norms_and_ratios_are_those_of_plain_autograd():
    victim, x, labels = lenet(), images(), [0, 3, 1]
    health = gradient_health(GradientOracle(victim), x, torch.tensor(labels))
    for i, (image, label) in enumerate(zip(x, labels, strict=True)):
        order = victim(image[None])[0].argsort().tolist()
        wrong = next(k for k in order if k != label)
        assert health.norms[i] == pytest.approx(norm(victim, image, label), rel=1e-5)
        assert health.ratios[i] == pytest.approx(
            norm(victim, image, label) / norm(victim, image, wrong), rel=1e-5
        )


@pytest.mark.parametrize("margin", [0.0, 2.0, 6.0, 10.0])
def test_a_linear_victims_ratio_is_that_of_its_logits_gradients(margin):
    """By hand: the gradient is (p - e_y) ⊗ (x, 1), so that the image's part cancels."""
    p = torch.tensor([margin, 0.0, 0.0], dtype=torch.float64).softmax(0)
    own, wrong = (p - torch.eye(3)[0]).norm(), (p - torch.eye(3)[1]).norm()
    health = gradient_health(confident(margin), images(2), torch.tensor([0, 0]))
    assert health.ratios == pytest.approx([float(own / wrong)] * 2, rel=2e-3)


@settings(max_examples=20)
@given(st.floats(1e-3, 1e3))
def test_the_ratio_does_not_depend_on_the_gradients_scale(scale):
    """A loss times a constant scales both norms."""
    victim, x, y = lenet(), images(2), torch.tensor([1, 2])
    plain = gradient_health(GradientOracle(victim), x, y)
    scaled = gradient_health(
        GradientOracle(victim, loss=lambda z, t: scale * F.cross_entropy(z, t, reduction="none")), x, y
    )
    assert scaled.ratios == pytest.approx(plain.ratios, rel=1e-4)
    assert scaled.norms == pytest.approx(scale * plain.norms, rel=1e-4)


def test_an_untrained_victim_warns_of_nothing():
    found, health = caught(GradientOracle(lenet()), images(), torch.tensor([0, 1, 2]))
    assert found == []
    assert health.ratios.min() > 0.1


def test_one_line_says_how_many_their_norms_and_what_to_do():
    oracle, x = confident(14.0), images(3)
    found, health = caught(oracle, x, torch.tensor([0, 1, 0]))
    assert [w.category for w in found] == [ConvergedVictimWarning]
    text = str(found[0].message)
    faint = sorted([health.norms[0], health.norms[2]])
    assert "\n" not in text
    assert text.startswith("the victim has fitted 2 of 3 images: their gradients (norm: median ")
    assert f"median {(faint[0] + faint[1]) / 2:.1e}, smallest {faint[0]:.1e}) are below 1e-05" in text
    assert text.endswith("audit an earlier state of the victim, or other images")


def test_the_threshold_is_the_callers():
    oracle, x, y = confident(5.0), images(1), torch.tensor([0])
    assert caught(oracle, x, y)[0] == []
    assert len(caught(oracle, x, y, threshold=0.1)[0]) == 1


def test_a_gradient_of_exactly_zero_is_warned_of_and_observing_it_stays_an_error():
    oracle, x, y = confident(200.0), images(1), torch.tensor([0])
    found, health = caught(oracle, x, y)
    assert (health.norms[0], health.ratios[0]) == (0.0, 0.0)
    assert len(found) == 1
    with pytest.raises(GradientError, match="zero: there is nothing to match"):
        oracle.observe(x, y)


def test_a_victim_whose_every_gradient_is_zero_has_ratio_zero():
    class Dead(Linear):
        def forward(self, x):
            return 0 * super().forward(x)

    health = gradient_health(GradientOracle(Dead([0.0, 0.0])), images(1), torch.tensor([0]))
    assert (health.norms[0], health.ratios[0]) == (0.0, 0.0)


class Normalized(nn.Module):
    """A batch normalization before a linear head: in train mode an image meets its own statistics."""

    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm2d(1), nn.Linear(SIDE * SIDE, CLASSES)

    def forward(self, x):
        return self.fc(self.norm(x).flatten(1))


def test_batch_normalization_is_met_in_the_victims_mode_and_its_statistics_stay():
    torch.manual_seed(0)
    victim, x, y = Normalized(), 0.1 * images(2), torch.tensor([0, 1])
    oracle = GradientOracle(victim.train())
    health = gradient_health(oracle, x, y)
    for i, label in enumerate(y.tolist()):
        assert health.norms[i] == pytest.approx(norm(copy.deepcopy(victim), x[i], label), rel=1e-5)
        assert health.norms[i] != pytest.approx(norm(copy.deepcopy(victim).eval(), x[i], label), rel=0.1)
    assert oracle.model.training
    assert all(torch.equal(a, b) for a, b in zip(oracle.model.buffers(), victim.buffers(), strict=True))


def test_what_does_not_fit_is_one_line():
    oracle = GradientOracle(lenet())
    with pytest.raises(InputError, match=r"^expected one label for each of 0 images, found \(0,\)$"):
        gradient_health(oracle, images(2)[:0], torch.tensor([0])[:0])
    with pytest.raises(InputError, match=r"^expected labels from 0 to 3, which the victim has; found 4$"):
        gradient_health(oracle, images(1), torch.tensor([4]))
    with pytest.raises(
        InputError, match=r"^the victim has one output, of which the loss cross-entropy is the same"
    ):
        gradient_health(confident(1.0, n=1), images(1), torch.tensor([0]))
