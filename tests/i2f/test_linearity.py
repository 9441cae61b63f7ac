"""Whether a victim's gradient is linear in the pixels."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from ggl.gradients import GradientOracle
from ggl.i2f import linearity
from ggl.i2f.linearity import gradient_growth, linearity_power, nonlinearity_note, random_direction

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])


def victim_with(activation, width=2000):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), activation, nn.Linear(width, 4))


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.SiLU(), nn.GELU()])
def test_smooth_victims_are_linear(activation):
    power = linearity_power(victim_with(activation), IMAGES, LABELS)
    assert power == pytest.approx(2, abs=0.02)
    assert nonlinearity_note(power) is None


def test_a_victim_of_many_relus_is_not_and_the_note_says_so():
    torch.manual_seed(0)
    widths = (64, 1000, 1000, 1000)
    hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    power = linearity_power(nn.Sequential(nn.Flatten(), *hidden, nn.Linear(1000, 4)), IMAGES, LABELS)
    assert abs(power - 2) > 0.2
    assert f"grows with the power {power:.2f} of a step" in nonlinearity_note(power)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 2)])
def test_jumps_that_cancel_over_all_steps_or_between_images_are_seen(monkeypatch, order):
    """Over all four decades each of the first two has the power 2, or the two have on average."""
    courses = [[1e-9, 1e-8, 1e-5, 1e-2, 1e-1], [1e-12, 1e-10, 1e-9, 1e-7, 1e-4], [1, 1e2, 1e4, 1e6, 1e8]]
    given = iter([courses[k] for k in order])
    monkeypatch.setattr(linearity, "gradient_growth", lambda *_: next(given))
    power = linearity_power(victim_with(nn.SiLU(), 5), IMAGES[: len(order)], LABELS[: len(order)])
    assert abs(power - 2) == pytest.approx(1)


def test_the_growth_is_that_of_the_gradients():
    oracle = GradientOracle(victim_with(nn.Sigmoid()).double(), backend="sequential")
    image, label = IMAGES[0].double(), LABELS[0]
    direction = random_direction(image, 5)
    assert direction.square().mean().sqrt() == pytest.approx(1)
    (found,) = gradient_growth(oracle, image, label, direction, [0.1])
    before, after = (oracle.observe(x[None], label[None]) for x in (image, image + 0.1 * direction))
    moved = sum((after[name] - g).square().sum() for name, g in before.items())
    assert found == pytest.approx(float(moved / sum(g.square().sum() for g in before.values())))


def test_a_gradient_that_does_not_move_has_no_power():
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(1, 4)

        def forward(self, x):
            return self.head(torch.ones(len(x), 1).to(x))

    assert linearity_power(Blind(), IMAGES, LABELS) is None
    assert nonlinearity_note(None) is None


def test_the_victim_stays_as_it_is():
    victim = victim_with(nn.SiLU())
    linearity_power(victim, IMAGES, LABELS)
    assert next(victim.parameters()).dtype == torch.float32
