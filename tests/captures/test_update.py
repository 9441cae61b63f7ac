"""Captured updates are read from every kind of file, and what cannot be one is refused in one line."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import ggl
from ggl.base.errors import GGLError, GradientError, InputError, WeightsError
from ggl.captures.learning_rate import check_learning_rate, estimate_learning_rate
from ggl.captures.update import captured_update


def small_victim(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3)).eval()


def normalized_victim():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def train(victim, images, labels, rate, steps=1, **options):
    optimizer = torch.optim.SGD(victim.parameters(), lr=rate, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(victim(images), labels).backward()
        optimizer.step()
    return victim


def write(path, state):
    """Write a state dict by the library that writes files of its suffix."""
    if path.suffix == ".safetensors":
        save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    else:
        torch.save(state, path)
    return path


@pytest.fixture
def trained():
    """Return a victim's state before and after one step at 0.1, and the gradient of that step."""
    victim, images, labels = small_victim(), torch.linspace(0, 1, 12).view(2, 1, 2, 3), torch.tensor([0, 2])
    gradient = ggl.GradientOracle(victim).observe(images, labels)
    return victim.state_dict(), train(small_victim(), images, labels, 0.1).state_dict(), gradient


def read(folder, before, after, *, victim=None, rate=0.1, suffix=".safetensors"):
    files = write(folder / f"before{suffix}", before), write(folder / f"after{suffix}", after)
    return captured_update(victim or small_victim(), *files, learning_rate=rate)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth"])
def test_one_step_gives_the_gradient_whatever_the_file(trained, tmp_path, suffix):
    before, after, gradient = trained
    victim = small_victim(seed=1)
    kept = {name: tensor.clone() for name, tensor in victim.state_dict().items()}
    captured = read(tmp_path, before, after, victim=victim, suffix=suffix)
    assert list(captured.gradients) == list(gradient)
    for name, g in gradient.items():
        torch.testing.assert_close(captured.gradients[name], g, rtol=1e-4, atol=2e-6)
        assert torch.equal(captured.before[name], before[name])
        assert torch.equal(victim.state_dict()[name], kept[name])
    assert captured.trained_in_train_mode is None
    assert captured.rounding == torch.finfo(torch.float32).eps


@pytest.mark.parametrize("prefix", ["_module.", "module.", "_module.module.", "module._module."])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_what_wrappers_put_before_every_name_is_taken_off(trained, tmp_path, prefix, suffix):
    before, after, _ = trained
    wrapped = [{prefix + name: tensor for name, tensor in state.items()} for state in (before, after)]
    plain = read(tmp_path, before, after).gradients
    assert all(
        torch.equal(g, plain[name]) for name, g in read(tmp_path, *wrapped, suffix=suffix).gradients.items()
    )


@pytest.mark.parametrize("inner", ["_module", "module"])
def test_a_victim_whose_own_names_begin_so_is_read_as_well(trained, tmp_path, inner):
    victim = nn.Module()
    victim.add_module(inner, small_victim())
    states = [{f"{inner}.{name}": tensor for name, tensor in state.items()} for state in trained[:2]]
    captured = read(tmp_path, *states, victim=victim)
    assert list(captured.gradients) == [f"{inner}.{name}" for name in trained[2]]


def test_a_wrapper_around_some_layers_only_is_taken_off_too(trained, tmp_path):
    before, after, gradient = trained
    partly = {f"_module.{name}" if "weight" in name else name: tensor for name, tensor in after.items()}
    captured = read(tmp_path, before, partly)
    torch.testing.assert_close(captured.gradients, gradient, rtol=1e-4, atol=2e-6)
    assert captured.notes == ("after.safetensors: '_module.' taken off the names",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_read_to_their_own_precision(trained, tmp_path, dtype):
    before, after, gradient = trained
    states = [{name: tensor.to(dtype) for name, tensor in state.items()} for state in (before, after)]
    captured = read(tmp_path, *states)
    assert captured.rounding == torch.finfo(dtype).eps
    for name, g in captured.gradients.items():
        assert g.dtype == torch.float32
        # both files are rounded by half a spacing
        allowed = captured.rounding * before[name].abs().max().item() / 0.1
        assert (g - gradient[name]).abs().max() <= allowed + 2e-6


def test_training_mode_is_read_off_running_statistics(tmp_path):
    images, labels = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3
    for training in (True, False):
        victim = normalized_victim().train(training)
        before = {name: tensor.clone() for name, tensor in victim.state_dict().items()}
        captured = read(tmp_path, before, train(victim, images, labels, 0.1).state_dict(), victim=victim)
        assert captured.trained_in_train_mode is training
        assert not any("running" in name or "num_batches" in name for name in captured.gradients)
        assert captured.victim.training is training


def test_a_count_that_a_server_averaged_is_read_as_a_count(tmp_path):
    victim = normalized_victim()
    before = victim.state_dict() | {"1.num_batches_tracked": torch.tensor(3.0)}
    after = before | {"3.bias": before["3.bias"] + 1}
    assert read(tmp_path, before, after, victim=victim).before["1.num_batches_tracked"] == 3


BAD_STATES = [
    (lambda s: {n: t for n, t in s.items() if n != "1.bias"}, "'1.bias': expected float [5], found no such"),
    (lambda s: s | {"9.bias": torch.ones(2)}, "'9.bias': expected no such tensor, found float [2]"),
    (lambda s: s | {"1.bias": torch.ones(4)}, "'1.bias': expected float [5], found float [4]"),
    (lambda s: s | {"1.bias": torch.ones(5).int()}, "'1.bias': expected float [5], found int32 [5]"),
    (lambda s: s | {"1.bias": torch.full((5,), torch.nan)}, "'1.bias': expected finite values, found NaN"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_STATES)
@pytest.mark.parametrize("which", ["before", "after"])
def test_a_file_that_does_not_fit_is_named_with_the_key(trained, tmp_path, spoil, message, which):
    states = {"before": trained[0], "after": trained[1]}
    states[which] = spoil(dict(states[which]))
    with pytest.raises(WeightsError) as error:
        read(tmp_path, *states.values())
    assert str(error.value).startswith(f"{tmp_path / which}.safetensors: {message}")
    assert "\n" not in str(error.value)


class Code:
    """Runs on unpickling."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


BAD_FILES = {
    "code.pt": (pickle.dumps(Code(), protocol=2), "expected"),
    "zip.npz": (b"PK\x03\x04", "expected an npz file of plain arrays, but it cannot be read"),
    "cut.safetensors": (b"\x00", "expected a whole safetensors file, found a damaged one"),
    "weights.onnx": (b"", "expected weights as .safetensors, .npz or a torch file (.pt, .pth, .ckpt, .bin, "),
    "weights": (
        b"",
        "expected weights as .safetensors, .npz or a torch file (.pt, .pth, .ckpt, .bin, .tar, ",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_read_is_one_clear_line(trained, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    before = write(tmp_path / "before.npz", trained[0])
    with pytest.raises(GGLError) as error:
        captured_update(small_victim(), before, tmp_path / name, learning_rate=0.1)
    assert str(error.value).startswith(f"{tmp_path / name}: {message}")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_code_in_a_torch_file_or_an_npz_is_refused_and_not_run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = write(tmp_path / "before.npz", trained[0])
    torch.save({"1.bias": Code()}, tmp_path / "code.pth")
    with pytest.raises(WeightsError, match="expected tensors only, found something else; refused"):
        captured_update(small_victim(), before, tmp_path / "code.pth", learning_rate=0.1)
    np.savez(tmp_path / "code.npz", a=np.array([Code()], dtype=object))
    with pytest.raises(WeightsError, match="Object arrays cannot be loaded when allow_pickle=False"):
        captured_update(small_victim(), before, tmp_path / "code.npz", learning_rate=0.1)
    with pytest.raises(WeightsError, match=r"gone.npz: expected a weights file, but it cannot be read"):
        captured_update(small_victim(), before, tmp_path / "gone.npz", learning_rate=0.1)
    assert not (tmp_path / "ran").exists()


def test_an_unchanged_file_leaves_nothing_to_match(trained, tmp_path):
    with pytest.raises(GradientError, match=r"after.safetensors: expected weights after .* nothing to match"):
        read(tmp_path, trained[0], trained[0])


def test_a_parameter_that_the_victim_does_not_train_must_not_change(trained, tmp_path):
    before, after, _ = trained
    victim = small_victim()
    victim[1].weight.requires_grad_(requires_grad=False)
    with pytest.raises(WeightsError, match=r"after.safetensors: '1.weight': expected no change"):
        read(tmp_path, before, after, victim=victim)
    kept = after | {"1.weight": before["1.weight"]}
    assert "1.weight" not in read(tmp_path, before, kept, victim=victim).gradients


@pytest.mark.parametrize("rate", [0.0, -0.1, float("nan"), float("inf")])
def test_a_learning_rate_is_finite_and_above_zero(trained, tmp_path, rate):
    with pytest.raises(InputError, match=f"a learning rate that is finite and above 0, found {rate:g}"):
        read(tmp_path, *trained[:2], rate=rate)


def test_a_learning_rate_that_makes_the_update_infinite_is_refused(trained, tmp_path):
    with pytest.raises(GradientError, match="learning rate 1e-300 too large; give the rate"):
        read(tmp_path, *trained[:2], rate=1e-300)


@settings(max_examples=25)
@given(
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    steps=st.integers(1, 4),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    nesterov=st.booleans(),
    rate=st.sampled_from([1e-3, 0.1, 1.0]),
    half=st.booleans(),
    seed=st.integers(0, 100),
)
def test_the_right_learning_rate_is_never_refused(
    tmp_path_factory, scale, steps, momentum, nesterov, rate, half, seed
):
    victim = small_victim(seed)
    with torch.no_grad():
        for parameter in victim.parameters():
            parameter *= scale
    before = {name: tensor.clone() for name, tensor in victim.state_dict().items()}
    images = torch.rand(2, 1, 2, 3, generator=torch.Generator().manual_seed(seed))
    options = {"momentum": momentum, "nesterov": nesterov and momentum > 0}
    after = train(victim, images, torch.tensor([seed % 3, 0]), rate, steps, **options).state_dict()
    states = [{n: t.bfloat16() if half else t for n, t in state.items()} for state in (before, after)]
    try:
        captured = read(tmp_path_factory.mktemp("files"), *states, rate=rate)
    except GradientError:
        return  # a step that 16 bits do not show
    check_learning_rate(captured, steps=steps, momentum=momentum)


def test_a_learning_rate_that_is_too_small_is_refused_with_its_factor(tmp_path):
    victim = small_victim()
    before = victim.state_dict()
    after = before | {"3.bias": before["3.bias"] - 0.1 * torch.tensor([0.8, 0.2, -1.0])}
    captured = read(tmp_path, before, after, rate=0.01)
    message = (
        r"learning rate 0.01: expected '3.bias' to change by at most what 1 local step\(s\) of cross-entropy "
        "can, found 10 times that; the learning rate is too small by at least a factor of 10, or "
    )
    with pytest.raises(InputError, match=message):
        check_learning_rate(captured)
    with pytest.raises(InputError, match=r"by at least a factor of 2.5,"):
        check_learning_rate(captured, steps=2, momentum=0.5)
    check_learning_rate(captured, steps=10)
    check_learning_rate(captured, momentum=0.9)
    check_learning_rate(read(tmp_path, before, after, rate=0.1))
    with pytest.raises(InputError, match="found 0 and 0"):
        check_learning_rate(captured, steps=0)
    with pytest.raises(InputError, match=r"momentum in \[0, 1\), found 1 and 1"):
        check_learning_rate(captured, momentum=1.0)


def test_the_sum_of_the_absolute_entries_is_bounded_too(tmp_path):
    before = small_victim().state_dict()
    after = before | {"3.bias": before["3.bias"] - torch.tensor([0.9, 0.9, -0.9])}
    with pytest.raises(InputError, match=r"by at least a factor of 1.35,"):
        check_learning_rate(read(tmp_path, before, after, rate=1.0))


def test_a_head_without_bias_is_not_checked(tmp_path):
    victim = nn.Sequential(nn.Flatten(), nn.Linear(6, 3, bias=False))
    before = victim.state_dict()
    check_learning_rate(read(tmp_path, before, {"1.weight": before["1.weight"] + 9}, victim=victim))


@pytest.fixture(scope="module")
def clothes():
    return ggl.load_dataset("fashion-mnist-heldout")


def difference(images, labels, rate, steps, momentum=0.0):
    """Return before - after of LeNet, one mini-batch a step, by a plain loop."""
    victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
    before = {name: p.detach().clone() for name, p in victim.named_parameters()}
    optimizer = torch.optim.SGD(victim.parameters(), lr=rate, momentum=momentum)
    for x, y in zip(images.chunk(steps), labels.chunk(steps), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(victim(x), y).backward()
        optimizer.step()
    return {name: before[name] - p.detach() for name, p in victim.named_parameters()}


@pytest.mark.slow("twelve trainings simulated")
@pytest.mark.parametrize("label", [2, 7])
@pytest.mark.parametrize(("steps", "momentum"), [(1, 0.0), (4, 0.0), (4, 0.9)])
@pytest.mark.parametrize("rate", [0.03, 0.1])
def test_the_learning_rate_is_estimated_from_other_images_of_the_class(clothes, label, steps, momentum, rate):
    images = clothes.images[clothes.labels == label]
    labels = torch.full((steps,), label)

    def simulate(trial):
        stand_ins = images[steps : 9 * steps].split(steps)
        return [difference(x, labels, trial, steps, momentum) for x in stand_ins]

    estimate = estimate_learning_rate(difference(images[:steps], labels, rate, steps, momentum), simulate)
    assert estimate.mean == pytest.approx(rate, rel=0.2)
    assert estimate.low <= estimate.mean <= estimate.high
    assert estimate.n == 8


def test_for_one_step_the_estimate_is_a_ratio_of_norms():
    slopes = [torch.tensor([0.0, slope]) for slope in (1.0, 2.0, 4.0)]
    estimate = estimate_learning_rate(
        {"w": torch.tensor([0.3, -0.4])}, lambda rate: [{"w": rate * slope} for slope in slopes]
    )
    assert estimate.mean == pytest.approx(0.5 / 2)
    assert estimate.low == pytest.approx(np.quantile([0.5 / 4, 0.5 / 2, 0.5], 0.025), rel=0.05)
    assert estimate.high == pytest.approx(np.quantile([0.5 / 4, 0.5 / 2, 0.5], 0.975), rel=0.05)


def test_what_gives_no_estimate_is_refused():
    one = {"w": torch.ones(2)}
    with pytest.raises(GradientError, match="expected an update that is finite and not zero, found"):
        estimate_learning_rate({"w": torch.zeros(2)}, lambda rate: [one])
    with pytest.raises(GradientError, match="expected stand-ins that change the model by a finite amount"):
        estimate_learning_rate(one, lambda rate: [{"w": torch.zeros(2)}])
    with pytest.raises(InputError, match="expected at least one stand-in to simulate, found none"):
        estimate_learning_rate(one, lambda rate: [])
    with pytest.raises(InputError, match="expected a learning rate at which stand-ins change the model by"):
        estimate_learning_rate({"w": torch.full((2,), 9.0)}, lambda rate: [one])
