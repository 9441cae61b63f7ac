"""`ggl audit` on a captured update, with the images that made it and without, and on simulated clients."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ggl.datasets.loading import load_dataset

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "plain_capture.py"
RATE = 0.1


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """Capture two local steps of one image each, as the example does."""
    spec = importlib.util.spec_from_file_location("plain_capture", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    folder = tmp_path_factory.mktemp("capture")
    example.main(folder, steps=2)
    data = load_dataset("fashion-mnist-heldout")
    truth = {"images": (data.images[:2, 0].numpy() * 255).astype(np.uint8), "labels": np.arange(2)}
    np.savez(folder / "truth.npz", **truth)
    before, after = (load_file(folder / f"{when}.safetensors") for when in ("before", "after"))
    np.savez(folder / "difference.npz", **{name: (after[name] - before[name]).numpy() for name in before})
    torch.save(
        {"model": {f"module.{name}": t for name, t in before.items()}, "epoch": 1}, folder / "server.pt"
    )
    return folder


def files(folder):
    return ["--update", folder / "before.safetensors", folder / "after.safetensors"]


STEPS = ["--local-steps", 2, "--local-batch-size", 1, "--strategy", "random", "--budget", 32]
SHORT = ["--ceiling-budget", 40, "--device", "cpu"]


def test_with_the_images_an_update_is_scored(ggl, captured, tmp_path):
    out = tmp_path / "out"
    truth = ["--truth", captured / "truth.npz", "--lr", RATE]
    code, output, errors = ggl("audit", "--out", out, *files(captured), *truth, *STEPS, *SHORT)
    assert (code, errors) == (0, "")
    result = json.loads((out / "result.json").read_text())
    (cell,) = result["results"]
    assert cell["images"][0]["match_of_private"] == pytest.approx(0, abs=1e-4)
    assert cell["verdict"] == "undecided"
    assert [image["label"] for image in cell["images"]] == [0, 1]
    settings = result["settings"]
    assert settings["captured"]
    assert settings["batch_size"] == 2
    assert settings["local_training"]["learning_rate"] == RATE
    assert [name.split(",")[0] for name in settings["update"]] == ["before.safetensors", "after.safetensors"]
    assert "2 images" in output


def test_a_difference_is_scored_as_both_files_are(ggl, captured, tmp_path):
    truth = ["--truth", captured / "truth.npz", "--lr", RATE]
    difference = ["--update-difference", captured / "difference.npz"]
    weights = ["--victim-weights", f"{captured / 'server.pt'},key=model"]
    out = tmp_path / "out"
    code, output, errors = ggl("audit", "--out", out, *difference, *weights, *truth, *STEPS, *SHORT)
    assert (code, errors) == (0, "")
    note = "server.pt: entry 'model'; 'module.' taken off the names"
    assert note in output
    result = json.loads((out / "result.json").read_text())
    assert result["results"][0]["images"][0]["match_of_private"] == pytest.approx(0, abs=1e-4)
    settings = result["settings"]
    assert settings["weights_read"] == [note]
    assert settings["num_classes"] == 10
    assert settings["update"] is None
    assert settings["update_difference"].startswith("difference.npz, SHA-256 ")
    assert settings["victim_weights"].endswith(", key model")


def test_a_difference_needs_the_weights_before_it_and_its_sign(ggl, captured, tmp_path):
    difference = ["--update-difference", captured / "difference.npz", "--lr", RATE, "--private-labels", "0,1"]
    code, _, errors = ggl("audit", "--out", tmp_path / "out", *difference, *STEPS, *SHORT)
    assert code == 2
    assert "expected the weights that the client started from beside it, give --victim-weights" in errors
    difference[1] = f"{difference[1]},sign=-1"
    weights = ["--victim-weights", captured / "server.pt"]
    code, _, errors = ggl("audit", "--out", tmp_path / "out", *difference, *weights, *STEPS, *SHORT)
    assert code == 2
    assert "the difference is before - after: give FILE,sign=-1" in errors
    difference[1] = difference[1].replace("-1", "2")
    code, _, errors = ggl("audit", "--out", tmp_path / "out", *difference, *weights, *STEPS, *SHORT)
    assert code == 2
    assert "expected sign=1, after - before, or sign=-1; found sign=2" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.slow("thirteen attacks")
def test_without_the_images_nothing_is_scored(ggl, captured, tmp_path):
    out = tmp_path / "out"
    options = ["--lr", RATE, "--private-labels", "0,1"]
    code, output, errors = ggl("audit", "--out", out, *files(captured), *options, *STEPS, *SHORT)
    assert (code, errors) == (0, "")
    result = json.loads((out / "result.json").read_text())
    assert "leak_score" not in json.dumps(result)
    assert result["labels"] == [0, 1]
    assert "match to the captured update" in output
    assert "gap" in output
    assert (out / "report.html").exists()


@pytest.mark.slow("forty trainings simulated")
def test_a_learning_rate_that_nobody_says_is_estimated(ggl, captured, tmp_path):
    out = tmp_path / "out"
    options = ["--lr", "estimate", "--private-labels", "0,1"]
    code, output, _ = ggl("audit", "--out", out, *files(captured), *options, *STEPS, *SHORT)
    assert code == 0
    assert "learning rate, estimated: 0." in output
    found = json.loads((out / "result.json").read_text())["settings"]["estimated_learning_rate"]
    assert found["low"] < found["mean"] < found["high"]
    assert found["mean"] == pytest.approx(RATE, rel=0.3)


def test_images_that_do_not_make_the_update_are_said_and_not_scored(ggl, captured, tmp_path):
    """A rate four times too large: the update's own images give another one."""
    truth = ["--truth", captured / "truth.npz", "--lr", 4 * RATE, "--client-optimizer", "sgd"]
    code, output, _ = ggl("audit", "--out", tmp_path / "out", *files(captured), *truth, *STEPS, *SHORT)
    said = " ".join(output.split())
    assert code == 0
    assert said.count("the truth does not reproduce the captured update") == 2
    assert "likely: a learning rate 0.25 times the stated one, 0.1, which reproduces it" in said
    assert "leak scores are withheld" in said
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["truth"]["verdict"] == "doubtful"
    assert result["results"][0]["leak_score"]["mean"] is None
    assert result["results"][0]["images"][0]["match_of_private"] > 1e-3


def test_an_estimated_rate_raises_no_doubt(ggl, captured, tmp_path):
    truth = ["--truth", captured / "truth.npz", "--lr", "estimate"]
    code, output, _ = ggl("audit", "--out", tmp_path / "out", *files(captured), *truth, *STEPS, *SHORT)
    assert code == 0
    assert "the truth reproduces the captured update" in " ".join(output.split())


def bad_optimizer(folder, into):
    return [
        "--lr",
        RATE,
        "--client-optimizer",
        "adm",
    ], "no client optimizer is named 'adm'; did you mean 'adam'"


def rate_twice(folder, into):
    return [
        "--lr",
        RATE,
        "--client-optimizer",
        "adam,lr=1",
    ], "expected the learning rate once, found --lr 0.1 too"


def force_without_truth(folder, into):
    return ["--lr", RATE, "--force"], "does not reproduce: give --truth too"


def known_order(folder, into):
    return [
        "--lr",
        RATE,
        "--local-order",
        "known",
    ], "--local-order known: expected with --update the images in"


def other_victim(folder, into):
    return ["--victim", "mlp", "--lr", RATE], r"before\.safetensors: '\S+': expected"


def wrong_shape(folder, into):
    tensors = load_file(folder / "after.safetensors")
    tensors["fc.bias"] = torch.zeros(3)
    save_file(tensors, into / "after.safetensors")
    return ["--lr", RATE], r"'fc\.bias': expected float \[10\], found float \[3\]"


def missing_key(folder, into):
    tensors = load_file(folder / "after.safetensors")
    del tensors["fc.bias"]
    save_file(tensors, into / "after.safetensors")
    return ["--lr", RATE], r"'fc\.bias': expected float \[10\], found no such tensor"


def an_integer(folder, into):
    tensors = load_file(folder / "after.safetensors")
    tensors["fc.bias"] = tensors["fc.bias"].round().long()
    save_file(tensors, into / "after.safetensors")
    return ["--lr", RATE], r"'fc\.bias': expected float \[10\], found int64 \[10\]"


class Code:
    def __reduce__(self):
        return (print, ("executed",))


def code_in_a_pickle(folder, into):
    torch.save({"fc.bias": Code()}, into / "after.pt")
    return ["--update", folder / "before.safetensors", into / "after.pt", "--lr", RATE], r"after\.pt"


def small_rate(folder, into):
    return ["--lr", 0.001], "learning rate 0.001: expected 'fc.bias' to change by at most"


def in_the_wrong_order(folder, into):
    given = ["--update", folder / "after.safetensors", folder / "before.safetensors"]
    return [
        *given,
        "--lr",
        RATE,
        "--private-labels",
        "0,1",
    ], "the files are in the wrong order: give the weights"


def a_difference_as_weights(folder, into):
    given = ["--update", folder / "before.safetensors", folder / "difference.npz"]
    return [*given, "--lr", RATE], r"difference\.npz: .* give a difference with --update-difference"


def both_kinds(folder, into):
    return [
        "--lr",
        RATE,
        "--update-difference",
        folder / "difference.npz",
    ], "expected one of them, found both"


def other_classes(folder, into):
    return [
        "--lr",
        RATE,
        "--num-classes",
        7,
    ], r"--num-classes 7: .*before\.safetensors is of a network of 10 classes"


def a_label_too_large(folder, into):
    return ["--lr", RATE, "--private-labels", "0,10"], "labels"


def an_entry_that_is_not_there(folder, into):
    before = f"{folder / 'before.safetensors'},key=model"
    given = ["--update", before, folder / "after.safetensors", "--lr", RATE]
    return given, r"before\.safetensors: expected an entry 'model', found .*; name one of those with key="


def an_option_that_is_not_known(folder, into):
    before = f"{folder / 'before.safetensors'},ky=model"
    given = ["--update", before, folder / "after.safetensors", "--lr", RATE]
    return given, "no option of --update .* is named 'ky'; did you mean 'key'"


def no_rate(folder, into):
    return [], "expected the client's learning rate, give --lr a number, or estimate"


def no_number(folder, into):
    return ["--lr", "fast"], "--lr: expected a number or 'estimate', found 'fast'"


def two_defenses(folder, into):
    return ["--lr", RATE, "--defense", "none", "--defense", "sign"], "expected the one defense that made it"


def weights_twice(folder, into):
    return ["--lr", RATE, "--victim-weights", folder / "before.safetensors"], "leave --victim-weights out"


def labels_twice(folder, into):
    return ["--lr", RATE, "--truth", folder / "truth.npz", "--private-labels", "0,1"], "holds the labels"


def two_strategies(folder, into):
    return ["--lr", RATE, "--strategy", "cma-es"], "expected one --strategy, found random, cma-es"


def rate_of_an_unknown_batch(folder, into):
    return ["--lr", "estimate", "--batch-size", 2], "expected the labels of a batch"


def groups_of_nobody(folder, into):
    return ["--lr", RATE, "--groups", "sex"], "--groups compares the private images, which --truth gives"


def no_labels(folder, into):
    return ["--lr", RATE, "--private-labels", "0,x"], "--private-labels: expected integers such as 0,3,7"


@pytest.mark.parametrize(
    "case",
    [
        other_victim,
        wrong_shape,
        missing_key,
        an_integer,
        code_in_a_pickle,
        small_rate,
        in_the_wrong_order,
        a_difference_as_weights,
        both_kinds,
        other_classes,
        a_label_too_large,
        an_entry_that_is_not_there,
        an_option_that_is_not_known,
        no_rate,
        no_number,
        two_defenses,
        weights_twice,
        labels_twice,
        two_strategies,
        rate_of_an_unknown_batch,
        no_labels,
        groups_of_nobody,
        bad_optimizer,
        rate_twice,
        known_order,
        force_without_truth,
    ],
)
def test_what_does_not_fit_ends_in_one_line(case, ggl, captured, tmp_path):
    options, message = case(captured, tmp_path)
    after = tmp_path / "after.safetensors"
    given = ["--update", captured / "before.safetensors", after] if after.exists() else files(captured)
    out = tmp_path / "out"
    code, output, errors = ggl("audit", "--out", out, *given, *STEPS, *SHORT, *options)
    assert code == 2
    assert "executed" not in output
    assert errors.startswith("ggl: ")
    assert errors.count("\n") == 1
    assert re.search(message, errors)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--truth", "x.npz"], "say what is in a captured update: give --update too"),
        (["--lr", "estimate"], "reads a captured update: give --update too, or a number"),
        (["--local-steps", 2], "expected the clients' learning rate beside them, give --lr"),
        (["--local-batch-size", 2], "expected the clients' learning rate beside them, give --lr"),
        (["--local-order", "copies"], "expected the clients' learning rate beside them, give --lr"),
        (["--client-optimizer", "adamw"], "expected the clients' learning rate beside them, give --lr"),
        (["--client-optimizer", "adamw,lr=fast"], "expected a number for lr, found 'fast'"),
        (["--client-optimizer", "sgd,lr=1,clip_norm=0"], "expected clip_norm above 0, found 0"),
        (["--lr", 0.1, "--local-order", "random"], "no order of local steps is named 'random'"),
        (["--force"], "--force is of captured updates that --truth does not reproduce: leave it out"),
        (["--momentum", 1.5], "--momentum: expected a number from 0 to below 1, found 1.5"),
        (["--batch-size", 3, "--images", 10], "expected whole batches of 3, found 10 images"),
    ],
)
def test_options_of_simulated_clients_that_do_not_fit(options, message, ggl, tmp_path):
    code, _, errors = ggl("audit", "--out", tmp_path / "out", *options)
    assert code == 2
    assert message in errors


def test_simulated_clients_of_batches_and_steps(ggl, tmp_path):
    out = tmp_path / "out"
    clients = ["--batch-size", 2, "--images", 4, "--lr", RATE, "--momentum", 0.5, "--victim-mode", "train"]
    code, output, _ = ggl("audit", "--out", out, *clients, *STEPS, *SHORT, "--label-rule", "inferred")
    assert code == 0
    settings = json.loads((out / "result.json").read_text())["settings"]
    expected = {"steps": 2, "learning_rate": RATE, "optimizer": "sgd:momentum=0.5", "batch_size": 1}
    assert settings["local_training"].items() >= expected.items()
    assert (settings["label_rule"], settings["victim_mode"]) == ("inferred", "train")
    assert "4 images" in output


@pytest.mark.parametrize("order", ["known", "guessed", "whole", "copies"])
def test_simulated_clients_that_shuffle_and_train_by_adamw(order, ggl, tmp_path):
    out = tmp_path / "out"
    clients = ["--batch-size", 2, "--images", 2, "--client-optimizer", "adamw,lr=0.001,schedule=cosine"]
    steps = ["--local-steps", 4, "--local-batch-size", 1, "--local-order", order]
    code, output, errors = ggl(
        "audit", "--out", out, *clients, *steps, "--strategy", "random", "--budget", 16, *SHORT
    )
    assert (code, errors) == (0, "")
    assert "the clients' updates do not tell: a factor of all gradients alike" in " ".join(output.split())
    result = json.loads((out / "result.json").read_text())
    training = result["settings"]["local_training"]
    assert (training["learning_rate"], training["order"]) == (0.001, order)
    assert training["optimizer"] == "adamw:schedule=cosine"
    matches = [image["match_of_private"] for image in result["results"][0]["images"]]
    assert (max(matches) < 1e-5) is (order == "known")


def test_victims_are_trained_to_states(ggl, tmp_path):
    random = np.random.default_rng(0)
    images = {f"{s}_images": random.integers(0, 255, (40, 8, 8), dtype=np.uint8) for s in ("train", "test")}
    labels = {f"{s}_labels": np.arange(40) % 2 for s in ("train", "test")}
    np.savez(tmp_path / "data.npz", **images, **labels)
    options = ["--data", tmp_path / "data.npz", "--victim", "mlp", "--batch-size", 8]
    assert ggl("train-victim", "--out", tmp_path / "states", *options, "--marks", "0,3")[0] == 0
    assert sorted(p.name for p in (tmp_path / "states").glob("*.safetensors")) == [
        "step-000000.safetensors",
        "step-000003.safetensors",
    ]
    code, _, errors = ggl("train-victim", "--out", tmp_path / "new", *options, "--marks", "0,x")
    assert code == 2
    assert "--marks: expected integers such as 0,3,7, found '0,x'" in errors


def test_the_influence_function_from_the_command_line(ggl, tmp_path):
    options = ["--victim", "mlp", "--images", 2, "--defense", "noise:0.01", "--bound-only"]
    attack = ["--attack", "private", "--attack-evaluations", 3]
    code, output, _ = ggl("i2f", "--out", tmp_path / "i2f", *options, *attack)
    assert code == 0
    result = json.loads((tmp_path / "i2f" / "i2f.json").read_text())
    assert result["settings"]["attack"] == "private"
    assert all(row["measured_rmse"] > 0 for row in result["results"][0]["rows"])
    assert "lower bound" in output
