"""Training the bundled priors resumes where it was stopped."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from ggl.base.errors import CheckpointError
from ggl.generators.bundled import train as script
from ggl.generators.bundled.feature_network import FeatureNetwork
from ggl.generators.bundled.recipes import RECIPES, EncodedRecipe
from ggl.generators.bundled.training import DCGANTraining, EncodedTraining, Training


class StoppedError(Exception):
    pass


NARROW = {
    "fashion-dcgan32": {"generator_widths": (24, 16, 12, 8), "discriminator_widths": (8, 16, 24)},
    "cifar10-gan32": {"generator_widths": (24, 16, 12, 8), "encoder_widths": (4, 6, 8), "head_width": 8},
}
SHAPES = {1: (28, 28), 3: (32, 32, 3)}
"""Of the images of Fashion-MNIST and CIFAR-10."""


@pytest.fixture(params=RECIPES)
def name(request):
    return request.param


@pytest.fixture
def recipe(name):
    return replace(RECIPES[name], **NARROW[name])


@pytest.fixture
def file(tmp_path, recipe):
    random = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 160), ("test", 40)):
        arrays[f"{split}_images"] = random.integers(0, 256, (n, *SHAPES[recipe.channels]), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(n, dtype=np.uint8) % 10
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


@pytest.fixture
def data(file):
    return script.load_images(file, "train")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Narrow features, a checkpoint at every step, and the global random state put back."""
    monkeypatch.setattr(FeatureNetwork, "widths", (4, 6, 8))
    monkeypatch.setattr(script, "CHECKPOINT_EVERY", 1)
    monkeypatch.setattr(script, "BATCH", 8)
    with torch.random.fork_rng(devices=[]):
        yield


def training(recipe, steps):
    if isinstance(recipe, EncodedRecipe):
        torch.manual_seed(1)
        features = FeatureNetwork(recipe.channels, recipe.num_classes)
        return EncodedTraining(recipe, features, steps, 0, torch.device("cpu"))
    return DCGANTraining(recipe, steps, 0, torch.device("cpu"))


def run(data, recipe, out, steps=2):
    out.mkdir(exist_ok=True)
    state = training(recipe, steps)
    script.train(*data, recipe, state, out)
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
    assert images.shape == (160, recipe.channels, 32, 32)
    assert images.min() == 0
    assert images.max() == 1
    assert images[..., :2, :].any() == (recipe.channels == 3)
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("after", [1, 2])
def test_a_stopped_training_resumes_to_identical_weights(data, recipe, tmp_path, monkeypatch, after):
    steps = 3
    expected = run(data, recipe, tmp_path / "whole", steps)
    advance = Training.advance

    def stopping(self, images, labels):
        if self.step == after:
            raise StoppedError
        advance(self, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", stopping)
        with pytest.raises(StoppedError):
            run(data, recipe, tmp_path / "parts", steps)
    torch.rand(3)
    assert_equal(run(data, recipe, tmp_path / "parts", steps), expected)


def test_a_finished_training_is_not_run_again(data, recipe, tmp_path, monkeypatch):
    expected = run(data, recipe, tmp_path / "whole")
    monkeypatch.setattr(Training, "advance", None)
    assert_equal(run(data, recipe, tmp_path / "whole"), expected)


def test_the_end_may_be_moved_in_the_first_half(data, recipe, tmp_path, monkeypatch):
    """A training meant for 8 steps, stopped after the first and sent to 4: as one of 4 steps."""
    expected = run(data, recipe, tmp_path / "whole", 4)
    advance = Training.advance

    def stopping(self, images, labels):
        if self.step == 1:
            raise StoppedError
        advance(self, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", stopping)
        with pytest.raises(StoppedError):
            run(data, recipe, tmp_path / "parts", 8)
    assert_equal(run(data, recipe, tmp_path / "parts", 4), expected)
    with pytest.raises(
        CheckpointError, match=r"expected one of 8 steps, found one of 4 at step 4, .*give --steps 4"
    ):
        run(data, recipe, tmp_path / "parts", 8)


def test_every_network_is_trained_but_the_frozen_one(data, recipe, tmp_path):
    state = training(recipe, 1)
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in state.networks]
    frozen = list(state.features.parameters()) if isinstance(recipe, EncodedRecipe) else []
    kept = [parameter.clone() for parameter in frozen]
    script.train(*data, recipe, state, tmp_path)
    assert all(map(torch.equal, frozen, kept))
    for network, old in zip(state.networks, before, strict=True):
        unchanged = [name for name, p in network.named_parameters() if torch.equal(p, old[name])]
        assert all(name.endswith("bias") for name in unchanged)  # a hinge's two slopes may cancel


def test_drawing_is_seeded_and_leaves_the_global_random_state_alone(recipe):
    generator = training(recipe, 1).ema.module
    before = torch.get_rng_state()
    images, labels = script.draw(generator, recipe, 3, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(images, script.draw(generator, recipe, 3, seed=5)[0])
    assert images.shape == (30, recipe.channels, 32, 32)
    assert labels.bincount().tolist() == [3] * 10


def test_the_script_exports_and_measures_once(name, recipe, file, tmp_path, monkeypatch, capsys):
    """Run again, it trains nothing, not its classifiers either, and finds the same figures."""
    monkeypatch.setitem(RECIPES, name, recipe)
    monkeypatch.setattr(script, "JUDGED_PER_CLASS", 4)
    out = tmp_path / "out"
    arguments = [name, "--data", file, "--out", out, "--steps", 1, "--judge-epochs", 1, "--feature-epochs", 1]
    monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
    script.main()
    first = json.loads((out / "quality.json").read_text())
    assert first["steps"] == 1
    assert 0 <= first["samples_recognized"] <= 1
    assert np.mean(first["samples_recognized_per_class"]) == pytest.approx(first["samples_recognized"])
    weights = (out / f"{name}.safetensors").read_bytes()
    monkeypatch.setattr(script, "train_classifier", None)
    monkeypatch.setattr(Training, "advance", None)
    script.main()
    assert json.loads((out / "quality.json").read_text()) == first
    assert (out / f"{name}.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "missing.npz"], "expected an .npz with train_images and train_labels"),
        (["--data", "grey.npz"], "expected images of 3 channels and at most 32 px"),
        (["--data", "grey.npz", "--steps", "0"], "expected --steps of at least 1, found 0"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    grey = np.zeros((4, 28, 28), np.uint8)
    np.savez("grey.npz", train_images=grey, train_labels=np.zeros(4, np.uint8))
    monkeypatch.setattr("sys.argv", ["train", "cifar10-gan32", "--out", "out", *arguments])
    with pytest.raises(SystemExit) as caught:
        script.main()
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
