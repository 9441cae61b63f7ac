"""How many classes a victim has: asked for, read off its weights, or the data's."""

import json

import numpy as np
import pytest
import torch

from ggl.base.errors import InputError, WeightsError
from ggl.commands.build_victim import VictimPlan, build_victim
from ggl.commands.weight_options import identity_of, weights_argument
from ggl.victims import load_victim
from ggl.victims.loading import read_num_classes

SIZES = {"in_channels": 1, "image_size": 8}


@pytest.fixture
def weights(tmp_path):
    """Write weights of each victim with 1000 classes, in an entry of a checkpoint."""

    def write(name="mlp", **sizes):
        state = load_victim(name, num_classes=1000, **{**SIZES, **sizes}).state_dict()
        torch.save(
            {"net": {f"module.{n}": t for n, t in state.items()}, "acc": np.float64(1)}, tmp_path / "w.pth"
        )
        return tmp_path / "w.pth"

    return write


@pytest.fixture
def three(tmp_path):
    """Write images of three classes."""
    random = np.random.default_rng(0)
    arrays = {f"{s}_images": random.random((12, 8, 8), dtype=np.float32) for s in ("train", "test")}
    arrays |= {f"{s}_labels": np.arange(12) % 3 for s in ("train", "test")}
    np.savez(tmp_path / "three.npz", **arrays)
    return tmp_path / "three.npz"


@pytest.mark.parametrize("name", ["convnet", "lenet", "mlp", "vit", "resnet18-groupnorm"])
def test_the_file_says_how_many_classes_there_are(weights, name):
    file = weights(name)
    assert read_num_classes(name, file, **SIZES) == 1000
    notes = []
    victim = load_victim(name, num_classes=None, weights=file, say=notes.append, **SIZES)
    assert victim(torch.zeros(1, 1, 8, 8)).shape == (1, 1000)
    assert notes == ["w.pth: entry 'net'; 'module.' taken off the names"]
    assert load_victim(name, num_classes=None, weights=file, key="net", training=True, **SIZES).training


def test_what_says_nothing_of_classes_is_asked_for(weights, tmp_path):
    with pytest.raises(
        InputError, match="expected num_classes, or a weight file that says it; found neither"
    ):
        load_victim("mlp", num_classes=None, **SIZES)
    file = weights(image_size=16)
    with pytest.raises(WeightsError, match=r"expected float \[200, 64\], found float \[200, 256\]"):
        load_victim("mlp", num_classes=None, weights=file, **SIZES)
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pth")
    assert read_num_classes("mlp", tmp_path / "w.pth", **SIZES) is None
    with pytest.raises(
        InputError, match="expected shapes that tell how many classes victim mlp has, found none"
    ):
        load_victim("mlp", num_classes=None, weights=tmp_path / "w.pth", **SIZES)


def test_i2f_takes_a_victim_of_more_classes_than_the_images_have(ggl, weights, three, tmp_path):
    options = ["--victim", "mlp", "--data", three, "--images", 2, "--bound-only", "--device", "cpu"]
    code, output, errors = ggl("i2f", "--out", tmp_path / "a", *options, "--victim-weights", weights())
    assert (code, errors) == (0, "")
    assert "w.pth: entry 'net'; 'module.' taken off the names" in output
    settings = json.loads((tmp_path / "a" / "i2f.json").read_text())["settings"]
    assert settings["num_classes"] == 1000
    assert settings["weights_read"] == ["w.pth: entry 'net'; 'module.' taken off the names"]
    assert ggl("i2f", "--out", tmp_path / "b", *options, "--num-classes", 5)[0] == 0
    assert json.loads((tmp_path / "b" / "i2f.json").read_text())["settings"]["num_classes"] == 5


@pytest.mark.parametrize("command", ["i2f", "utility", "train-victim", "audit"])
def test_fewer_classes_than_the_images_have_are_one_line(ggl, three, tmp_path, command):
    options = ["--victim", "mlp", "--data", three, "--num-classes", 2]
    if command == "audit":
        options += ["--prior", "pixels:1x8x8", "--budget", 20]
    code, _, errors = ggl(command, "--out", tmp_path / "out", *options)
    assert code == 2
    assert "expected labels below the victim's 2 classes, found 2; give images of its classes, or" in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_utility_and_training_take_more_classes(ggl, three, tmp_path):
    options = ["--victim", "mlp", "--data", three, "--num-classes", 7, "--device", "cpu", "--batch-size", 4]
    assert ggl("train-victim", "--out", tmp_path / "a", *options, "--marks", "0,1")[0] == 0
    assert json.loads((tmp_path / "a" / "training.json").read_text())["settings"]["classes"] == 7
    state = tmp_path / "a" / "step-000001.safetensors"
    assert load_victim("mlp", num_classes=None, weights=state, **SIZES).fc.out_features == 7
    short = ["--seeds", 1, "--clients", 2, "--rounds", 1]
    assert ggl("utility", "--out", tmp_path / "b", *options, *short)[0] == 0
    assert json.loads((tmp_path / "b" / "utility.json").read_text())["settings"]["num_classes"] == 7


def test_a_file_is_typed_with_its_entry(tmp_path):
    file = weights_argument("--victim-weights", "a.pt,key=ema")
    assert (str(file.path), file.key, file.sign) == ("a.pt", "ema", 1)
    odd = tmp_path / "a,key=b.pt"
    odd.write_bytes(b"")
    assert weights_argument("--victim-weights", odd).path == odd
    assert identity_of("--victim-weights", odd).startswith("a,key=b.pt, SHA-256 e3b0c442")
    assert identity_of("--victim-weights", None) is None
    with pytest.raises(InputError, match=r"no option of --victim-weights .* is named 'sign'"):
        weights_argument("--victim-weights", "a.pt,sign=-1")
    with pytest.raises(InputError, match="expected option=value, each once, found 'key='"):
        weights_argument("--victim-weights", "a.pt,key=")


def only_three(in_channels, num_classes, image_size):
    if num_classes != 3:
        raise InputError("three classes or none")
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(in_channels * image_size**2, num_classes))


def test_a_network_of_one_number_of_classes_alone_is_built_with_what_the_data_say(tmp_path):
    torch.save(only_three(1, 3, 8).state_dict(), tmp_path / "w.pt")
    name = f"{__name__}:only_three"
    assert read_num_classes(name, tmp_path / "w.pt", **SIZES) is None
    given = weights_argument("--victim-weights", tmp_path / "w.pt")
    assert build_victim(VictimPlan(name, (1, 8, 8), None, 3, given))[1] == 3
