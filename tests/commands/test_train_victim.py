"""Victims trained by the command line: the folder, its weights, its figures, and what is refused."""

import hashlib
import json
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ggl.base.errors import GradientError, InputError, UnknownNameError
from ggl.base.weights import load_tensors
from ggl.commands.train_victim import TrainVictimPlan, run_train_victim
from ggl.victims import load_victim

CLASSES, SIDE = 3, 8


def blobs(n, seed=0, side=SIDE):
    """Images (n, side, side) of three classes whose brightest row tells the class."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    images = 0.6 * torch.rand(n, side, side, generator=random)
    images[torch.arange(n), labels] += 0.4
    return (255 * images).byte().numpy(), labels.numpy()


def write(path, splits=("train_", "test_"), side=SIDE):
    arrays = {}
    for k, split in enumerate(splits):
        images, labels = blobs(90 - 30 * k, k, side)
        arrays |= {f"{split}images": images, f"{split}labels": labels}
    np.savez(path, **arrays)
    return str(path)


def plan(folder, **options):
    chosen = {"victim": "mlp", "marks": (0, 5, 120), "batch_size": 16, "device": "cpu", **options}
    data = chosen.pop("data", None) or write(folder / "blobs.npz")
    return TrainVictimPlan(data=data, **{"out": folder / "out", **chosen})


def written(folder):
    return json.loads((folder / "training.json").read_text())


def victim(path, **options):
    sizes = {"in_channels": 1, "num_classes": CLASSES, "image_size": SIDE, **options}
    return load_victim("mlp", weights=path, **sizes)


def refused(asked, error, message):
    """The run ends with one line, and leaves no folder."""
    with pytest.raises(error, match=message) as found:
        run_train_victim(asked)
    assert "\n" not in str(found.value)
    assert not asked.out.exists()


def test_the_folder_holds_every_state_and_its_figures(tmp_path, capsys):
    run_train_victim(plan(tmp_path))
    out, result = tmp_path / "out", written(tmp_path / "out")
    names = ["step-000000.safetensors", "step-000005.safetensors", "step-000120.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "training.json"]
    assert [state["weights"] for state in result["states"]] == names
    assert [state["step"] for state in result["states"]] == [0, 5, 120]
    for state in result["states"]:
        assert hashlib.sha256((out / state["weights"]).read_bytes()).hexdigest() == state["sha256"]
    assert result["settings"]["learning_rate"] == 0.05
    assert result["settings"]["image_shape"] == [1, SIDE, SIDE]
    assert result["settings"]["training_images"] == 90
    printed = capsys.readouterr().out
    assert "step-000120.safetensors" in printed
    assert "gradient norm, median" in printed


def test_figures_are_those_of_the_weights_by_plain_autograd(tmp_path):
    """Accuracy, and the quantiles of all 60 test images' gradient norms, the slow way."""
    run_train_victim(plan(tmp_path))
    images, labels = blobs(60, 1)
    x, y = torch.from_numpy(images)[:, None].float() / 255, torch.from_numpy(labels)
    accuracies = []
    for state in written(tmp_path / "out")["states"]:
        model = victim(tmp_path / "out" / state["weights"])
        right = (model(x).argmax(1) == y).double().mean().item()
        norms = []
        for image, label in zip(x, y, strict=True):
            loss = F.cross_entropy(model(image[None]), label[None])
            flat = [g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]
            norms.append(torch.cat(flat).double().norm().item())
        expected = np.quantile(norms, [0, 0.25, 0.5, 0.75, 1])
        kinds = ("smallest", "lower_quartile", "median", "upper_quartile", "largest")
        assert [state["gradient_norm"][kind] for kind in kinds] == pytest.approx(expected, rel=1e-4)
        assert state["test_accuracy"] == pytest.approx(right)
        accuracies.append(right)
    assert accuracies[-1] > 0.9
    assert accuracies[0] < 0.7


def test_the_first_state_is_the_victim_that_the_seed_builds(tmp_path):
    run_train_victim(plan(tmp_path, marks=(0,), seed=3))
    expected = victim(None, seed=3).state_dict()
    found = load_tensors(tmp_path / "out" / "step-000000.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_the_same_seed_writes_the_same_but_for_the_time(tmp_path):
    first = plan(tmp_path, marks=(3,))
    run_train_victim(first)
    run_train_victim(replace(first, out=tmp_path / "again"))
    run_train_victim(replace(first, out=tmp_path / "other", seed=1))
    one, again, other = (written(tmp_path / name) for name in ("out", "again", "other"))
    assert one["states"] == again["states"]
    assert one["settings"] == again["settings"]
    assert one["states"] != other["states"]


class Normalized(nn.Sequential):
    """A user's own victim, with batch normalization."""

    def __init__(self, *, in_channels, num_classes, image_size):
        super().__init__(
            nn.BatchNorm2d(in_channels), nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes)
        )


def test_an_own_victims_buffers_are_among_the_weights(tmp_path, monkeypatch):
    module = types.ModuleType("own.networks")
    module.Normalized = Normalized
    monkeypatch.setitem(sys.modules, "own", types.ModuleType("own"))
    monkeypatch.setitem(sys.modules, "own.networks", module)
    run_train_victim(plan(tmp_path, victim="own.networks:Normalized", marks=(2,)))
    path = tmp_path / "out" / "step-000002.safetensors"
    assert load_tensors(path)["0.num_batches_tracked"].item() == 2
    sizes = {"in_channels": 1, "num_classes": CLASSES, "image_size": SIDE}
    loaded = load_victim("own.networks:Normalized", weights=path, **sizes)
    assert loaded[0].running_mean.item() > 0.01


def test_images_are_brought_to_the_size_asked_for(tmp_path):
    run_train_victim(plan(tmp_path, marks=(1,), fit="pad", image_size=12))
    victim(tmp_path / "out" / "step-000001.safetensors", image_size=12)
    assert written(tmp_path / "out")["settings"]["image_shape"] == [1, 12, 12]


def test_test_images_may_have_a_source_of_their_own(tmp_path):
    data = write(tmp_path / "one.npz", splits=("",))
    test = write(tmp_path / "two.npz", splits=("no_", "test_"))
    run_train_victim(plan(tmp_path, data=data, test_data=test, marks=(1,)))
    assert written(tmp_path / "out")["settings"]["test_images"] == 60


def test_the_victims_own_learning_rate_is_that_of_utility(tmp_path):
    assert plan(tmp_path, victim="lenet").rate == 0.02
    assert plan(tmp_path, victim="lenet", learning_rate=0.3).rate == 0.3


@pytest.mark.parametrize("there", ["training.json", "step-000300.safetensors"])
def test_a_folder_that_holds_a_training_is_refused_and_stays(tmp_path, there):
    asked = plan(tmp_path)
    asked.out.mkdir()
    (asked.out / there).write_text("kept")
    with pytest.raises(InputError, match=f"out: holds {there} of a training already; choose another folder$"):
        run_train_victim(asked)
    assert [path.name for path in asked.out.iterdir()] == [there]
    assert (asked.out / there).read_text() == "kept"


def test_what_does_not_fit_is_refused_before_the_training(tmp_path):
    asked = plan(tmp_path)
    refused(replace(asked, victim="lenett"), UnknownNameError, "lenet")
    refused(replace(asked, marks=(5, 0)), InputError, "expected marks as ascending .*; found 5,0$")
    refused(replace(asked, learning_rate=-1.0), InputError, "expected a learning rate above 0, found -1$")
    refused(
        replace(asked, image_size=12),
        InputError,
        "expected images of 12x12 pixels, found 8x8 pixels; give --image-size with --fit pad, resize",
    )
    refused(replace(asked, fit="stretch", image_size=12), UnknownNameError, "stretch")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: expected a folder for the results, but .*file is a file$"):
        run_train_victim(replace(asked, out=tmp_path / "file"))


def test_images_that_are_training_and_test_images_are_refused(tmp_path):
    refused(
        plan(tmp_path, data=write(tmp_path / "one.npz", splits=("",))),
        InputError,
        "the test images are the training images; give data with the splits train and test, or --test-data$",
    )


def test_test_images_of_another_shape_are_refused(tmp_path):
    test = write(tmp_path / "two.npz", side=10)
    refused(
        plan(tmp_path, test_data=test),
        InputError,
        r"expected test images of the training images' shape \(1, 8, 8\), found \(1, 10, 10\)$",
    )


def test_a_training_that_diverges_leaves_nothing(tmp_path):
    refused(plan(tmp_path, learning_rate=1e30), GradientError, "it diverged within .* steps")
