"""`ggl audit --batch-statistics`: simulated clients and captured updates, or one line that says why not."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from ggl.audits.clients import Clients
from ggl.base.weights import save_tensors
from ggl.benchmarks.studies.victim_states import normalized_lenet
from ggl.gradients import GradientOracle
from ggl.gradients.batch_statistics import StatisticsMatch
from ggl.victims import load_victim

VICTIM = "ggl.benchmarks.studies.victim_states:normalized_lenet"
SMALL = ("--strategy", "cma-es", "--budget", 48, "--ceiling-budget", 8)


def capture(folder, data, *, sent=True):
    """Write a client's update of one step on two images, its running statistics sent or not."""
    model = load_victim(VICTIM, in_channels=1, num_classes=10, image_size=32, seed=0).train()
    before = copy.deepcopy(model.state_dict())
    save_tensors(folder / "before.safetensors", before)
    nn.functional.cross_entropy(model(data.images[:2]), data.labels[:2]).backward()
    after = copy.deepcopy(model.state_dict())
    for name, parameter in model.named_parameters():
        after[name] = (parameter - 0.1 * parameter.grad).detach()
    if not sent:
        after |= {name: value for name, value in before.items() if name not in dict(model.named_parameters())}
    save_tensors(folder / "after.safetensors", after)
    images = (data.images[:2, 0] * 255).round().byte().numpy()
    np.savez(folder / "truth.npz", images=images, labels=data.labels[:2].numpy())
    files = (folder / "before.safetensors", folder / "after.safetensors")
    return ["--victim", VICTIM, "--victim-mode", "train", "--update", *files, "--lr", 0.1]


@pytest.mark.parametrize("truth", [True, False])
def test_a_captured_update(ggl, tmp_path, data, truth):
    given = capture(tmp_path, data)
    given += ["--truth", tmp_path / "truth.npz"] if truth else ["--private-labels", "0,1"]
    for name, option in (("told", ["--batch-statistics"]), ("plain", [])):
        code, _, errors = ggl("audit", "--out", tmp_path / name, *given, *SMALL, *option)
        assert code == 0, errors
    told, plain = (json.loads((tmp_path / n / "result.json").read_text()) for n in ("told", "plain"))
    assert (told["settings"]["batch_statistics"], plain["settings"]["batch_statistics"]) == (True, False)
    if truth:
        assert "batch statistics" in told["settings"]["attacker_knows"]
        assert told["results"][0]["psnr"] != plain["results"][0]["psnr"]
    else:
        assert told["match"] != plain["match"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--victim", "lenet"], "expected a victim in train mode with batch normalization"),
        (["--victim", VICTIM], "expected a victim in train mode with batch normalization"),
        (
            ["--victim", VICTIM, "--victim-mode", "train", "--local-steps", 2, "--lr", 0.1],
            "expected one local step of a victim that draws no noise",
        ),
    ],
)
def test_clients_that_give_no_statistics(ggl, tmp_path, options, message):
    arguments = ("--out", tmp_path / "out", "--batch-statistics", "--images", 2, *SMALL)
    code, _, errors = ggl("audit", *arguments, *options)
    assert code == 2
    assert message in errors
    assert not (tmp_path / "out").exists()


def test_an_update_without_running_statistics(ggl, tmp_path, data):
    given = capture(tmp_path, data, sent=False)
    code, _, errors = ggl("audit", "--out", tmp_path / "out", *given, *SMALL, "--batch-statistics")
    assert code == 2
    assert "--batch-statistics: running statistics did not move: the client trained in eval mode" in errors


def test_simulated_clients_are_met_with_their_own_statistics(data):
    """The controls' searches are told the controls' statistics, none the private batch's."""
    torch.manual_seed(0)
    oracle = GradientOracle(normalized_lenet(in_channels=1, num_classes=10, image_size=32).train())
    clients = Clients(
        data.images[:4], data.images[10:14], data.labels[:4], [0, 1], 2, 0, 0, 1, None, statistics=True
    )
    for kind, images in (
        ("private", data.images),
        ("sibling", data.images[10:]),
        ("noise", data.images[10:]),
    ):
        for k, seen in enumerate(clients.observed(oracle, kind)):
            match = StatisticsMatch(oracle.model, seen)
            assert float(match(images[None, 2 * k : 2 * k + 2])) < 1e-5
