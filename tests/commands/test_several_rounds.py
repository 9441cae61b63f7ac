"""`--update` given several times: the rounds of one client, joined."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ggl.victims import load_victim

SHORT = ("--budget", 40, "--ceiling-budget", 10, "--lr", 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    """Two rounds of one client, and its image."""
    place = tmp_path_factory.mktemp("rounds")
    images, labels = data.images[3:4], data.labels[3:4]
    for r in range(2):
        victim = load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=r)
        torch.save(victim.state_dict(), place / f"before-{r}.pt")
        optimizer = torch.optim.SGD(victim.parameters(), lr=0.1)
        F.cross_entropy(victim(images), labels).backward()
        optimizer.step()
        torch.save(victim.state_dict(), place / f"after-{r}.pt")
    np.savez(place / "truth.npz", images=images[:, 0].numpy(), labels=labels.numpy())
    return place


def updates(folder, *rounds):
    return [
        part for r in rounds for part in ("--update", folder / f"before-{r}.pt", folder / f"after-{r}.pt")
    ]


def test_the_truth_makes_every_round(ggl, folder, tmp_path):
    truth = ("--truth", folder / "truth.npz")
    code, out, _ = ggl("audit", "--out", tmp_path / "out", *updates(folder, 0, 1), *truth, *SHORT)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert code == 0
    assert "the truth reproduces the captured update" in out
    assert result["truth"]["distance"] < 1e-5
    assert result["settings"]["loss"] == "cross-entropy in 2 rounds"
    assert [name.split(",")[0] for name in result["settings"]["update"]] == [
        *("before-0.pt", "after-0.pt", "before-1.pt", "after-1.pt"),
    ]


def test_a_round_of_another_client_is_seen(ggl, folder, tmp_path):
    swapped = ["--update", folder / "before-0.pt", folder / "after-1.pt"]
    truth = ("--truth", folder / "truth.npz", "--defense", "prune:0.1", "--attacker", "naive")
    code, out, _ = ggl("audit", "--out", tmp_path / "out", *updates(folder, 1), *swapped, *truth, *SHORT)
    assert code == 0
    assert "the truth does not reproduce the captured update" in out


def test_without_the_truth_the_label_is_read_off_the_first_round(ggl, folder, tmp_path, data):
    code, out, _ = ggl("audit", "--out", tmp_path / "out", *updates(folder, 0, 1), *SHORT)
    assert code == 0
    assert f"labels: {int(data.labels[3])}\n" in out


def test_what_cannot_be_joined_is_one_line(ggl, folder, tmp_path):
    place = ("audit", "--out", tmp_path / "out", *updates(folder, 0, 1))
    code, _, error = ggl(*place, *SHORT, "--batch-size", 2)
    assert (code, error.count("\n")) == (2, 1)
    assert "expected the labels of a batch" in error
    code, _, error = ggl(*place, *SHORT, "--client-optimizer", "sgd:clip_norm=1")
    assert (code, error.count("\n")) == (2, 1)
    assert "expected steps that are not clipped by their norm" in error
    assert not (tmp_path / "out" / "result.json").exists()
