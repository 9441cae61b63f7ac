"""Flow matching: its steps, its prior, and a training that resumes where it was stopped."""

import json
import math

import numpy as np
import pytest
import torch
from test_train import assert_equal

import ggl
from ggl.base.errors import CheckpointError, GradientError, InputError, WeightsError
from ggl.base.weights import load_tensors, save_tensors
from ggl.generators import load_prior
from ggl.generators.flow import phases
from ggl.generators.flow import train as training
from ggl.generators.flow.network import CodeFlow, carry
from ggl.generators.flow.prior import FlowPrior, FlowSettings

CPU = torch.device("cpu")
CODES = FlowSettings(channels=1, num_classes=3, code=6, width=8, depth=2)
PIXELS = FlowSettings(channels=1, num_classes=3, code=0)


class StoppedError(Exception):
    pass


def network(settings):
    """The networks of a prior, random, and such that labels and noise do something."""
    draws = torch.Generator().manual_seed(0)
    parts = torch.nn.ModuleDict({"flow": settings.flow(), "decoder": settings.decoder()})
    with torch.no_grad():
        for weights in parts.parameters():
            fan = weights[0].numel() if weights.ndim > 1 else 1
            weights.normal_(std=1.2 / fan**0.5, generator=draws)
    return parts


def make_tiny(folder, settings=CODES, options="") -> str:
    """Write a small random flow into `folder` and return the name that loads it."""
    save_tensors(folder / "tiny.safetensors", network(settings).state_dict(), settings.to_metadata())
    return f"flow:{folder}/tiny.safetensors{options}"


def make_pixels(folder) -> str:
    return make_tiny(folder, PIXELS, ",steps=2")


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_steps_carry_noise_along_the_flow_to_a_normal(scale):
    """Ends that are normal of standard deviation s: the flow is x₀ -> s·x₀; the prediction by regression."""

    def expected_end(x, time):
        t = time[:, None]
        return t * scale**2 * x / ((1 - t).square() + (t * scale).square())

    noise = normal(5, 3).double()
    found = [carry(expected_end, noise, steps) for steps in (1, 50, 1000)]
    torch.testing.assert_close(found[0], torch.zeros_like(noise))
    errors = [float((ends - scale * noise).norm() / (scale * noise).norm()) for ends in found]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 3e-3


def test_two_steps_by_the_velocity():
    def predict(x, time):
        return 3 * x.sin() + time[:, None]

    def velocity(x, t):
        return (3 * math.sin(x) + t - x) / (1 - t)

    middle = 0.7 + velocity(0.7, 0.0) / 2
    expected = middle + velocity(middle, 0.5) / 2
    found = carry(predict, torch.tensor([[0.7]], dtype=torch.float64), 2)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("settings", [CODES, PIXELS])
def test_the_images_are_those_of_the_networks(tmp_path, settings):
    parts = network(settings)
    prior = load_prior(make_tiny(tmp_path, settings, ",steps=1"))
    z, labels = normal(4, prior.latent_dim), torch.tensor([0, 1, 2, 2])
    ends = parts["flow"](z, torch.zeros(4), labels)
    expected = ((parts["decoder"](ends) + 1) / 2).detach()
    assert expected.std() > 0.05
    torch.testing.assert_close(prior.decode(z, labels), expected)
    assert (prior.image_shape, prior.num_classes) == ((1, 32, 32), 3)
    assert prior.latent_dim == (settings.code or 1024)


def test_steps_are_an_option(tmp_path):
    prior, quick = (load_prior(make_tiny(tmp_path, options=options)) for options in ("", ",steps=2"))
    assert prior.steps == 8
    assert quick.name.endswith("tiny.safetensors,steps=2")
    z, labels = normal(2, 6), torch.tensor([0, 1])
    assert not torch.allclose(prior.decode(z, labels), quick.decode(z, labels), atol=1e-3)
    with pytest.raises(InputError, match=r"expected 1 to \d+ steps, found 0"):
        load_prior(make_tiny(tmp_path, options=",steps=0"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flow.enter.bias": None}, r"expected shape \(8,\) of flow.enter.bias in this flow, found none"),
        ({"flow.enter.bias": torch.ones(7)}, r"expected shape \(8,\) of .*, found shape \(7,\)"),
        ({"flow.enter.bias": torch.full((8,), torch.nan)}, "expected finite numbers in flow.enter.bias"),
        ({"flow.enter.bias": torch.ones(8).long()}, "expected finite numbers in flow.enter.bias"),
        ({"critic.weight": torch.ones(2)}, "expected none of critic.weight in this flow, found shape"),
    ],
)
def test_other_tensors_are_refused(tmp_path, change, message):
    state = network(CODES).state_dict() | change
    tensors = {name: tensor for name, tensor in state.items() if tensor is not None}
    save_tensors(tmp_path / "other.safetensors", tensors, CODES.to_metadata())
    with pytest.raises(WeightsError, match=message):
        FlowPrior(str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "expected a flow's channels, num_classes, code, width, depth as JSON .* found ''"),
        ("[1]", r"as JSON under 'settings', found '\[1\]'"),
        ('{"code": 6}', "expected a flow's channels, num_classes, code"),
        ({"width": 0}, "expected width from 1 to 4096, found 0"),
        ({"depth": True}, "expected depth from 1 to 4096, found True"),
        ({"code": 10**9}, "expected code from 0 to 4096, found 1000000000"),
    ],
)
def test_other_settings_are_refused_before_networks_are_made(tmp_path, text, message):
    settings = json.loads(CODES.to_metadata()["settings"])
    metadata = {"settings": json.dumps(settings | text) if isinstance(text, dict) else text} if text else {}
    save_tensors(tmp_path / "other.safetensors", network(CODES).state_dict(), metadata)
    with pytest.raises(WeightsError, match=rf"{message}.*; train one with python -m") as raised:
        FlowPrior(str(tmp_path / "other.safetensors"))
    assert "\n" not in str(raised.value)


def test_a_checkpoint_is_no_prior(tmp_path):
    with pytest.raises(
        InputError, match=r"expected the \.safetensors file that .* writes, found .*flow\.pt$"
    ):
        FlowPrior(str(tmp_path / "flow.pt"))


def test_another_format_is_named(tmp_path):
    save_tensors(tmp_path / "unet.safetensors", {"time_embedding.linear_1.weight": torch.ones(2, 2)})
    with pytest.raises(WeightsError, match=r"unet.safetensors: .* diffusion UNet \(diffusers\)"):
        FlowPrior(str(tmp_path / "unet.safetensors"))


def test_the_bundled_flow_inverts_clothes_that_it_never_saw_and_what_is_no_clothing():
    """Better than the bundled GAN by decibels, after as many evaluations; a cross is no piece of clothing."""
    data = ggl.load_dataset("fashion-mnist-heldout")
    cross = torch.zeros(1, 1, 32, 32)
    cross[..., 14:18, 6:26] = cross[..., 6:26, 14:18] = 0.8
    images, labels = (
        torch.cat([data.images[[3, 700]], cross]),
        torch.cat([data.labels[[3, 700]], torch.tensor([0])]),
    )
    psnr = []
    for name in ("fashion-dcgan32", "fashion-flow32"):
        found = ggl.invert(images, labels, prior=load_prior(name), strategy="adam:starts=1", budget=150)
        errors = (torch.cat([result.images for result in found]) - images).square().flatten(1).mean(1)
        psnr.append(-10 * errors.log10())
    gained = psnr[1] - psnr[0]
    assert gained[:2].min() > 2
    assert gained[2] > 10


@pytest.fixture
def quick(monkeypatch):
    """Small batches, a checkpoint at every second step, and narrow flows of codes."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(phases, "BATCH", 8)


@pytest.fixture
def data(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "data.npz"
    images = random.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    np.savez(path, train_images=images, train_labels=np.arange(20) % 3)
    return path


def run(out, settings=CODES, seed=0, steps=3):
    out.mkdir(exist_ok=True)
    images = normal(20, 1, 32, 32).tanh()
    return training.train(
        settings,
        images,
        torch.arange(20) % 3,
        steps=steps,
        code_steps=3,
        seed=seed,
        out=out,
        device=CPU,
    )


@pytest.mark.parametrize(
    ("settings", "stage", "after"), [(CODES, "code", 2), (CODES, "flow", 2), (PIXELS, "flow", 1)]
)
def test_a_stopped_training_resumes_to_identical_weights(
    quick, tmp_path, monkeypatch, settings, stage, after
):
    expected = run(tmp_path / "whole", settings)
    advance = phases.Phase.advance

    def stopping(self):
        if (self.name, self.step) == (stage, after):
            raise StoppedError
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(phases.Phase, "advance", stopping)
        with pytest.raises(StoppedError):
            run(tmp_path / "parts", settings)
    torch.rand(3)
    assert_equal(run(tmp_path / "parts", settings), expected)


def test_a_finished_training_is_not_run_again(quick, tmp_path, monkeypatch):
    expected = run(tmp_path / "whole")
    monkeypatch.setattr(phases.Phase, "advance", None)
    assert_equal(run(tmp_path / "whole"), expected)


def test_another_training_is_refused(quick, tmp_path):
    run(tmp_path / "whole")
    with pytest.raises(CheckpointError, match=r"code.pt: expected seed 1, found 0; name another folder"):
        run(tmp_path / "whole", seed=1)
    with pytest.raises(CheckpointError, match=r"flow.pt: expected steps 4, found 3"):
        run(tmp_path / "whole", steps=4)
    (tmp_path / "whole" / "flow.pt").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"flow.pt: expected a checkpoint, found a damaged file"):
        run(tmp_path / "whole")


def test_a_loss_that_is_not_finite_ends_it(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "LEARNING_RATE", float("inf"))
    with pytest.raises(GradientError, match="step 2: expected a finite loss, found nan"):
        run(tmp_path / "whole")
    assert list((tmp_path / "whole").iterdir()) == []


def test_global_random_states_are_left_alone(quick, tmp_path):
    before = torch.get_rng_state()
    run(tmp_path / "whole")
    assert torch.equal(torch.get_rng_state(), before)


def test_whitening_leads_back():
    codes = normal(200, 4) @ normal(4, 4) + 3
    white, matrix, mean = phases.whiten(codes)
    torch.testing.assert_close(white.T.cov(), torch.eye(4), rtol=0, atol=1e-4)
    torch.testing.assert_close((white.double() @ matrix + mean).float(), codes, rtol=0, atol=1e-4)


def test_the_decoder_reads_white_codes(quick, tmp_path):
    """Of a training image's white code it makes what the autoencoder makes of the image."""
    tensors = run(tmp_path / "whole")
    images = normal(20, 1, 32, 32).tanh()
    stage = phases.Coding(CODES, images, 3, 0, CPU)
    stage.load_state_dict(torch.load(tmp_path / "whole" / "code.pt"))
    codes = stage.codes()
    decoder = CODES.decoder()
    state = {n.removeprefix("decoder."): t for n, t in tensors.items() if n.startswith("decoder.")}
    decoder.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    found = decoder(phases.whiten(codes)[0])
    torch.testing.assert_close(found, stage.average.decoder(codes), rtol=0, atol=1e-4)


def test_two_steps_of_a_learned_flow_reach_its_classes(monkeypatch):
    """Ends about (3, 0) and (-3, 0), of standard deviation 0.3."""
    monkeypatch.setattr(phases, "WARM_UP", 20)
    monkeypatch.setattr(phases, "LEARNING_RATE", 5e-3)
    labels = torch.arange(400) % 2
    centers = torch.stack([3.0 - 6 * labels, torch.zeros(400)], dim=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = CodeFlow(2, 2, 32, 2)
    stage = phases.Matching(flow, centers + 0.3 * normal(400, 2), labels, steps=200, seed=0, device=CPU)
    losses = torch.stack([stage.advance() for _ in range(200)])
    assert losses[-50:].mean() < losses[:50].mean() / 2
    asked = torch.arange(200) % 2
    with torch.no_grad():
        ends = carry(lambda x, time: stage.average(x, time, asked), normal(200, 2), 2)
    for label, center in enumerate((3.0, -3.0)):
        mine = ends[asked == label]
        assert mine.mean(0).tolist() == pytest.approx([center, 0], abs=0.5)
        assert 0.1 < mine.std(0).min() <= mine.std(0).max() < 0.6


def test_the_command_writes_a_prior_that_loads(quick, data, tmp_path, capsys):
    arguments = ["--data", str(data), "--fit", "pad", "--out", str(tmp_path / "out"), "--code", "5"]
    training.main([*arguments, "--code-steps", "2", "--steps", "2", "--device", "cpu"])
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "code: step 2/2",
        "flow: step 2/2",
    ]
    prior = load_prior(f"flow:{tmp_path}/out/flow.safetensors")
    assert (prior.latent_dim, prior.num_classes, prior.image_shape) == (5, 3, (1, 32, 32))
    stored = load_tensors(tmp_path / "out" / "flow.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert (tmp_path / "out" / "samples.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--code", "-1"], "expected --code of at least 0, found -1"),
        (["--code", "5000"], "expected --code of at most 4096, found 5000"),
        (["--steps", "0"], "expected --steps of at least 1, found 0"),
        (["--code-steps", "0"], "expected --code-steps of at least 1, found 0"),
        ([], "fit"),
    ],
)
def test_what_cannot_be_trained_ends_in_one_line(data, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        training.main(["--data", str(data), "--out", str(tmp_path / "out"), *arguments])
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    assert not (tmp_path / "out").exists()
