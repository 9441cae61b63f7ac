"""The example of docs/add-a-defense.md is a defense that keeps the contract."""

import pytest
import torch
from documented import example_module

import ggl
from ggl.base.errors import InputError
from ggl.datasets.picking import pick_private
from ggl.defenses import Client, defenses


@pytest.fixture
def example(monkeypatch, tmp_path):
    with example_module("add-a-defense.md", "mydefense", defenses, monkeypatch, tmp_path):
        yield


@pytest.mark.parametrize("name", ["random-mask:0.25", "mydefense:RandomMask:0.25"])
def test_it_is_unbiased_and_seeded(example, name):
    defense = ggl.load_defense(name)
    g = {"w": torch.full((40_000,), 2.0)}
    shared = defense.protect(g, torch.Generator().manual_seed(0))["w"]
    assert set(shared.tolist()) == {0.0, 8.0}
    deviation = 2 * (0.75 / 0.25) ** 0.5
    assert abs(shared.mean().item() - 2) < 5 * deviation / len(shared) ** 0.5
    assert torch.equal(shared, defense.protect(g, torch.Generator().manual_seed(0))["w"])


def test_its_name_loads_it_again_and_bad_options_are_refused(example):
    assert ggl.load_defense("clip:4+random-mask:0.5").name == "clip:4+random-mask:0.5"
    with pytest.raises(InputError, match="expected a probability above 0, at most 1, found 2"):
        ggl.load_defense("random-mask:2")
    with pytest.raises(InputError, match="expected a value of keep"):
        ggl.load_defense("random-mask")


def test_who_knows_it_is_closer_to_the_private_image(example):
    """At the private image the adaptive distance is 0 and the naive one is not."""
    data = ggl.load_dataset("fashion-mnist-heldout")
    victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0)
    oracle = ggl.GradientOracle(victim)
    defense = ggl.load_defense("random-mask:0.05")
    for row in pick_private(data.labels, 3, seed=0):
        image, label = data.images[row][None], data.labels[row][None]
        shared = defense.share(Client(oracle, image, label), torch.Generator().manual_seed(0))
        naive, adaptive = (
            oracle.score(image, label, defense.view(shared, who), "cosine") for who in ("naive", "adaptive")
        )
        assert adaptive.item() == pytest.approx(0, abs=1e-5)
        assert naive.item() > 0.3
