"""The examples of docs/examples run as a user runs them, and what they capture is a client's update."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import ggl
from ggl.captures.learning_rate import check_learning_rate
from ggl.captures.roles import check_direction
from ggl.captures.update import captured_difference, captured_update

pytestmark = pytest.mark.slow("runs the examples as processes: Flower, Opacus")

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
RATE = 0.1


@pytest.fixture(scope="module")
def victim():
    return ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)


@pytest.fixture(scope="module")
def data():
    return ggl.load_dataset("fashion-mnist-heldout")


def run(folder, *arguments):
    """Run Python beside the examples in a process of its own, Flower's telemetry off."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=EXAMPLES,
        env=os.environ | {"FLWR_TELEMETRY_ENABLED": "0", "OUT": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def captured(victim, folder):
    files = folder / "before.safetensors", folder / "after.safetensors"
    return captured_update(victim, *files, learning_rate=RATE)


def gradient(victim, state, images, labels):
    """Return the gradient of the victim with a state, by autograd alone."""
    parameters = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    loss = F.cross_entropy(torch.func.functional_call(victim, parameters, (images,)), labels)
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


@pytest.mark.parametrize("steps", [1, 4])
def test_the_plain_loop_gives_the_sum_of_its_steps_gradients(victim, data, tmp_path, steps):
    script = f"import os, pathlib, plain_capture as e; e.main(pathlib.Path(os.environ['OUT']), {steps})"
    run(tmp_path, "-c", script)
    update = captured(victim, tmp_path)
    weights, total = update.before, dict.fromkeys(update.gradients, 0.0)
    for k in range(steps):
        g = gradient(victim, weights, data.images[[k]], data.labels[[k]])
        weights = {name: weights[name] - RATE * g[name] for name in g}
        total = {name: total[name] + g[name] for name in g}
    for name, expected in total.items():
        torch.testing.assert_close(update.gradients[name], expected, rtol=1e-3, atol=1e-5)
    check_learning_rate(update, steps=steps)


def test_the_opacus_loop_gives_clipped_gradients_with_noise_of_the_stated_scale(victim, data, tmp_path):
    script = "import os, pathlib, opacus_capture as e; e.torch.manual_seed(0); "
    run(tmp_path, "-c", script + "e.main(pathlib.Path(os.environ['OUT']))")
    update = captured(victim, tmp_path)
    assert list(update.gradients) == [name for name, _ in victim.named_parameters()]
    values = torch.cat([g.flatten() for g in update.gradients.values()])
    # two steps, each with noise of deviation 0.5 · 1 / 4, and two means of gradients clipped to norm 1
    deviation = 0.5 / 4 * 2**0.5
    noise = deviation * len(values) ** 0.5
    assert abs(values.norm().item() - noise) < 2 + 5 * deviation
    # its direction is mostly noise, where the clipped mean alone has a norm of at most 2
    clean = gradient(victim, update.before, data.images[:4], data.labels[:4])
    alignment = F.cosine_similarity(values, torch.cat([g.flatten() for g in clean.values()]), dim=0)
    assert abs(alignment) < (2 + 5 * deviation) / noise


def whole_gradient(victim, data):
    """Return the gradient of the first two images, by autograd alone."""
    loss = F.cross_entropy(victim(data.images[:2]), data.labels[:2])
    names, parameters = zip(*victim.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def assert_gradient(update, expected):
    assert update.gradients.keys() == expected.keys()
    for name, g in update.gradients.items():
        torch.testing.assert_close(g, expected[name], rtol=1e-3, atol=1e-5)


def test_flowers_lists_of_arrays_give_the_gradient_of_a_client_in_train_mode(data, tmp_path):
    run(tmp_path, "flower_arrays_capture.py", str(tmp_path))
    victim = ggl.load_victim("resnet18", in_channels=1, num_classes=10, image_size=32, training=True)
    files = tmp_path / "before.npz", tmp_path / "after.npz"
    update = captured_update(victim, *files, learning_rate=RATE)
    assert update.trained_in_train_mode
    assert update.notes[0] == "before.npz: 122 arrays without names, in the order of the state dict"
    assert_gradient(update, whole_gradient(victim, data))


def test_nvflares_difference_with_its_checkpoint_gives_the_gradient(victim, data, tmp_path):
    run(tmp_path, "nvflare_capture.py", str(tmp_path))
    sizes = {"in_channels": 1, "num_classes": None, "image_size": 32, "seed": 3}
    before = ggl.load_victim("lenet", weights=tmp_path / "FL_global_model.pt", **sizes)
    update = captured_difference(before, tmp_path / "difference.npz", learning_rate=RATE)
    assert_gradient(update, whole_gradient(victim, data))
    check_direction(update.gradients, data.labels[:2])


def test_lightnings_checkpoints_give_the_gradient(victim, data, tmp_path):
    run(tmp_path, "lightning_capture.py", str(tmp_path))
    files = tmp_path / "before.ckpt", tmp_path / "after.ckpt"
    update = captured_update(victim, *files, learning_rate=RATE)
    said = "entry 'state_dict'; 'model.' taken off the names; left aside: 'class_weights'"
    assert update.notes == (f"before.ckpt: {said}", f"after.ckpt: {said}")
    assert_gradient(update, whole_gradient(victim, data))


def test_the_flower_server_captures_the_gradient_of_one_client(victim, data, tmp_path):
    pytest.importorskip("flwr")
    pytest.importorskip("ray")
    run(tmp_path, "flower_capture.py", str(tmp_path))
    update = captured(victim, tmp_path)
    expected = gradient(victim, update.before, data.images[[0]], data.labels[[0]])
    for name, g in update.gradients.items():
        torch.testing.assert_close(g, expected[name], rtol=1e-3, atol=1e-5)
    check_learning_rate(update)
