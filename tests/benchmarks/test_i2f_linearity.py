"""The study of how far gradients are linear in the pixels."""

import pytest
from torch import nn

from ggl.benchmarks.studies import i2f_linearity
from ggl.datasets.loading import load_dataset
from ggl.victims import load_victim


@pytest.fixture(scope="module")
def data():
    return load_dataset("fashion-mnist-heldout")


def test_of_a_smooth_victim_the_gradient_is_linear_and_the_way_down_goes_down(data, monkeypatch):
    monkeypatch.setattr(i2f_linearity, "IMAGES", 2)
    powers = [i2f_linearity.exponent(one) for one in i2f_linearity.measure("lenet", data)]
    assert powers == pytest.approx([2] * 4, abs=0.01)
    for ratios in i2f_linearity.descent("lenet", "noise:0.01", data):
        nearest = ratios.index(min(ratios))
        assert 0 < nearest < len(ratios) - 1
        assert ratios[0] < 1 < ratios[-1]


def test_every_relu_is_replaced_and_the_weights_stay():
    plain = load_victim("resnet18", in_channels=1, num_classes=10, image_size=32)
    smooth = i2f_linearity.smoothed(load_victim("resnet18", in_channels=1, num_classes=10, image_size=32))
    count = {kind: sum(isinstance(m, kind) for m in smooth.modules()) for kind in (nn.ReLU, nn.SiLU)}
    assert count == {nn.ReLU: 0, nn.SiLU: sum(isinstance(m, nn.ReLU) for m in plain.modules())}
    assert all((a == b).all() for a, b in zip(plain.parameters(), smooth.parameters(), strict=True))


def test_the_table_has_a_row_for_every_victim_and_defense():
    steps = len(i2f_linearity.STEPS)
    growing = [10.0 ** (2 * k) for k in range(steps)]
    text = i2f_linearity.table(
        {
            "data": "x.npz",
            "victims": {"a": [growing, growing]},
            "descents": {"a": {"noise:1": [[0.5] * steps, [0.7] * steps, [0.9] * steps]}},
        }
    )
    assert "--data x.npz" in text
    assert "| a | 1.0e+00 | " in text
    assert "| 2.00, 2.00 to 2.00 |" in text
    assert "| a | noise:1 | -3.0e-01 |" in text
