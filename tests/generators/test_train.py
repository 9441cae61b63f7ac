"""Training the embedded prior resumes where it was stopped."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ggl.generators.bundled import train as training
from ggl.generators.bundled.recipes import RECIPES


class StoppedError(Exception):
    pass


NARROW = [
    replace(recipe, generator_widths=(24, 16, 12, 8), discriminator_widths=(8, 16, 24))
    for recipe in RECIPES.values()
]
SHAPES = {1: (28, 28), 3: (32, 32, 3)}
"""Of the images of Fashion-MNIST and CIFAR-10."""


@pytest.fixture(params=NARROW, ids=list(RECIPES))
def recipe(request):
    return request.param


@pytest.fixture
def data(tmp_path, recipe):
    random = np.random.default_rng(0)
    arrays = {
        "train_images": random.integers(0, 256, (80, *SHAPES[recipe.channels]), dtype=np.uint8),
        "train_labels": random.integers(0, 10, 80, dtype=np.uint8),
    }
    np.savez(tmp_path / "data.npz", **arrays)
    return training.load_images(tmp_path / "data.npz", "train")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Narrow networks, a checkpoint at every step, and the global random state put back."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 1)
    monkeypatch.setattr(training, "BATCH", 8)
    with torch.random.fork_rng(devices=[]):
        yield


def run(data, recipe, out, steps=2):
    out.mkdir(exist_ok=True)
    state = training.Training(recipe, steps, 0, torch.device("cpu"))
    training.train(*data, state, out)
    return state.state_dict()["parts"]


def assert_equal(found, expected):
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, list | tuple):
        for a, b in zip(found, expected, strict=True):
            assert_equal(a, b)
    else:
        assert found == expected


def test_images_are_padded_to_32_px_and_in_range(data, recipe):
    images, labels = data
    assert images.shape == (80, recipe.channels, 32, 32)
    assert images.min() == 0
    assert images.max() == 1
    assert images[..., :2, :].any() == (recipe.channels == 3)
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("after", [1, 2])
def test_a_stopped_training_resumes_to_identical_weights(data, recipe, tmp_path, monkeypatch, after):
    steps = 3
    expected = run(data, recipe, tmp_path / "whole", steps)
    advance = training.Training.advance

    def stopping(self, images, labels):
        if self.step == after:
            raise StoppedError
        advance(self, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "advance", stopping)
        with pytest.raises(StoppedError):
            run(data, recipe, tmp_path / "parts", steps)
    torch.rand(3)
    assert_equal(run(data, recipe, tmp_path / "parts", steps), expected)


def test_a_finished_training_is_not_run_again(data, recipe, tmp_path, monkeypatch):
    expected = run(data, recipe, tmp_path / "whole")
    monkeypatch.setattr(training.Training, "advance", None)
    assert_equal(run(data, recipe, tmp_path / "whole"), expected)


def test_drawing_is_seeded_and_leaves_the_global_random_state_alone(recipe):
    generator = training.Training(recipe, 1, 0, torch.device("cpu")).ema.module
    before = torch.get_rng_state()
    images, labels = training.draw(generator, recipe, 3, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(images, training.draw(generator, recipe, 3, seed=5)[0])
    assert images.shape == (30, recipe.channels, 32, 32)
    assert labels.bincount().tolist() == [3] * 10
