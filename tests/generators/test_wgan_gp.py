"""WGAN-GP: its prior, its gradient penalty, and a training that resumes where it was stopped."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_train import assert_equal

from ggl.base.errors import CheckpointError, GradientError, InputError, WeightsError
from ggl.base.weights import load_tensors, save_tensors
from ggl.generators.wgan_gp import train as training
from ggl.generators.wgan_gp.prior import WGANGP, Critic, Generator, gradient_penalty

LATENT_DIM, WIDTH = 6, 4
CPU = torch.device("cpu")


class StoppedError(Exception):
    pass


def network(latent_dim=LATENT_DIM, width=WIDTH, seed=0):
    """A random generator in eval mode, whose statistics do something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(latent_dim, width)
        for module in generator.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.05, 0.2)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, std=0.3)
    return generator.eval().requires_grad_(False)


def make_tiny(folder) -> str:
    """Write a small random WGAN-GP into `folder` and return the name that loads it."""
    save_tensors(folder / "tiny.safetensors", network().state_dict())
    return f"wgan-gp:{folder}/tiny.safetensors"


def latents(n=5, d=LATENT_DIM):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1))


def by_hand(state, z):
    """The generator, layer by layer in loops over pixels, from its description."""

    def normalized(x, name):
        shape = (1, -1, *[1] * (x.ndim - 2))
        mean, variance, scale, shift = (
            state[f"{name}.{part}"].view(shape) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp_min(0)

    def doubled(x, name):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        side = x.shape[-1]
        y = torch.zeros(len(x), weight.shape[1], 2 * side, 2 * side)
        for row in range(2 * side):
            for column in range(2 * side):
                tap = weight[:, :, row % 2, column % 2]
                y[:, :, row, column] = x[:, :, row // 2, column // 2] @ tap + bias
        return y

    x = z @ state["preprocess.0.weight"].T + state["preprocess.0.bias"]
    x = normalized(x, "preprocess.1").reshape(len(z), -1, 4, 4)
    for block in ("block1", "block2"):
        x = normalized(doubled(x, f"{block}.0"), f"{block}.1")
    return (doubled(x, "deconv_out").tanh() + 1) / 2


def test_the_images_are_those_of_the_layers_by_hand(tmp_path):
    prior = WGANGP(make_tiny(tmp_path).partition(":")[2])
    expected = by_hand(network().state_dict(), latents())
    assert expected.std() > 0.05
    torch.testing.assert_close(prior.decode(latents()), expected, rtol=0, atol=1e-5)
    assert (prior.latent_dim, prior.image_shape, prior.num_classes) == (LATENT_DIM, (3, 32, 32), None)


def test_a_checkpoint_of_ggl_loads(tmp_path):
    """GGL's training writes {"state_dict": …}: 128 latents, 512 maps of 4 px, then 256, 128 and 3."""
    shapes = {
        "preprocess.0.weight": (8192, 128),
        "preprocess.0.bias": (8192,),
        "block1.0.weight": (512, 256, 2, 2),
        "block1.0.bias": (256,),
        "block2.0.weight": (256, 128, 2, 2),
        "block2.0.bias": (128,),
        "deconv_out.weight": (128, 3, 2, 2),
        "deconv_out.bias": (3,),
    }
    for norm, features in {"preprocess.1": 8192, "block1.1": 256, "block2.1": 128}.items():
        shapes |= {
            f"{norm}.{part}": (features,) for part in ("weight", "bias", "running_mean", "running_var")
        }
    draws = torch.Generator().manual_seed(0)
    state = {name: torch.rand(shape, generator=draws) / 10 for name, shape in shapes.items()}
    counters = {name.replace("running_mean", "num_batches_tracked"): torch.tensor(7) for name in shapes}
    torch.save(
        {"state_dict": state | {n: c for n, c in counters.items() if n not in state}}, tmp_path / "g.tar"
    )
    prior = WGANGP(str(tmp_path / "g.tar"))
    assert prior.latent_dim == 128
    z = latents(2, 128)
    torch.testing.assert_close(prior.decode(z), by_hand(state, z), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block1.0.weight": None}, r"expected block1.0.weight of shape \(16, 8, 2, 2\) .*, found none"),
        ({"block2.0.bias": torch.ones(5)}, r"block2.0.bias of shape \(4,\) .*, found shape \(5,\)"),
        ({"deconv_out.bias": torch.full((3,), torch.inf)}, "expected finite numbers in deconv_out.bias"),
        ({"critic.weight": torch.ones(2)}, "a WGAN-GP generator alone, found critic.weight too"),
        (
            {"deconv_out.weight": None},
            "with preprocess.0.weight and deconv_out.weight, found .*train one with",
        ),
    ],
)
def test_other_tensors_are_refused(tmp_path, change, message):
    state = {name: tensor for name, tensor in (network().state_dict() | change).items() if tensor is not None}
    save_tensors(tmp_path / "other.safetensors", state)
    with pytest.raises(WeightsError, match=message):
        WGANGP(str(tmp_path / "other.safetensors"))


def test_counters_of_batches_may_be_missing(tmp_path):
    state = {name: tensor for name, tensor in network().state_dict().items() if tensor.ndim}
    save_tensors(tmp_path / "older.safetensors", state)
    expected = WGANGP(make_tiny(tmp_path).partition(":")[2]).decode(latents())
    assert torch.equal(WGANGP(str(tmp_path / "older.safetensors")).decode(latents()), expected)


def test_the_penalty_is_that_of_finite_differences():
    """Each slope from two evaluations of the critic, in float64."""
    draws = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        critic = Critic(2).double().requires_grad_(False)
    real, fake = (torch.randn(2, 3, 32, 32, generator=draws, dtype=torch.float64) for _ in range(2))
    mix = torch.rand(2, 1, 1, 1, generator=draws, dtype=torch.float64)
    total = 0.0
    for x in mix * real + (1 - mix) * fake:
        steps = 1e-6 * torch.eye(x.numel(), dtype=torch.float64).view(-1, *x.shape)
        slopes = torch.cat([critic(x + part) - critic(x - part) for part in steps.split(512)]) / 2e-6
        total += (float(slopes.norm()) - 1) ** 2
    found = gradient_penalty(critic, real, fake, mix).detach()
    assert float(found) == pytest.approx(total / 2, rel=1e-6)


@pytest.mark.parametrize("slope", [0.0, 1.0, 3.0])
def test_the_penalty_of_a_linear_critic_by_hand(slope):
    """D(x) = slope · x_0 has the gradient norm |slope| everywhere."""
    x = torch.ones(4, 3, 2, 2)
    penalty = gradient_penalty(
        lambda images: slope * images[:, 0, 0, 0], x, -x, torch.full((4, 1, 1, 1), 0.3)
    )
    assert float(penalty) == pytest.approx((slope - 1) ** 2)


def test_the_penalty_trains_the_critic():
    critic = Critic(2)
    x = torch.ones(2, 3, 32, 32)
    gradient_penalty(critic, x, -x, torch.full((2, 1, 1, 1), 0.5)).backward()
    assert all((critic.main[i].weight.grad != 0).any() for i in (0, 2, 4))


@pytest.fixture
def data(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 36, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", train_images=pixels)
    return tmp_path / "data.npz"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Narrow networks, a checkpoint at every step."""
    for name, value in {
        "CHECKPOINT_EVERY": 1,
        "BATCH": 8,
        "WIDTH": 4,
        "LATENT_DIM": 6,
        "CRITIC_STEPS": 2,
    }.items():
        monkeypatch.setattr(training, name, value)


def run(data, out, epochs=2, seed=0):
    out.mkdir(exist_ok=True)
    return training.train(training.load_images(data), epochs, seed, out, CPU)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_stopped_training_resumes_to_identical_weights(data, tmp_path, monkeypatch, after):
    """Two epochs of two steps: stopped within an epoch, and between two."""
    expected = run(data, tmp_path / "whole").state_dict()["parts"]
    advance = training.Training.advance

    def stopping(self):
        if self.step == after:
            raise StoppedError
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "advance", stopping)
        with pytest.raises(StoppedError):
            run(data, tmp_path / "parts")
    assert_equal(run(data, tmp_path / "parts").state_dict()["parts"], expected)


def test_more_epochs_go_on_from_the_checkpoint(data, tmp_path):
    run(data, tmp_path / "parts", epochs=1)
    found = run(data, tmp_path / "parts", epochs=2).state_dict()["parts"]
    assert_equal(found, run(data, tmp_path / "whole", epochs=2).state_dict()["parts"])


def test_a_finished_training_is_not_run_again(data, tmp_path, monkeypatch):
    expected = run(data, tmp_path / "whole").state_dict()["parts"]
    monkeypatch.setattr(training.Training, "advance", None)
    assert_equal(run(data, tmp_path / "whole").state_dict()["parts"], expected)


def test_both_networks_move_and_losses_are_finite(data):
    run = training.Training(training.load_images(data), 0, CPU)
    before = [{n: p.clone() for n, p in net.named_parameters()} for net in (run.generator, run.critic)]
    losses = [run.advance()]
    assert all(torch.equal(p, before[0][n]) for n, p in run.generator.named_parameters())
    losses += [run.advance() for _ in range(3)]
    assert torch.stack(losses).isfinite().all()
    assert run.step == 4
    assert any(not torch.equal(p, before[0][n]) for n, p in run.generator.named_parameters())
    assert any(not torch.equal(p, before[1][n]) for n, p in run.critic.named_parameters())


def test_the_critic_learns_to_score_real_images_higher_and_the_generator_follows(monkeypatch):
    monkeypatch.setattr(training, "LEARNING_RATE", 3e-3)
    monkeypatch.setattr(training, "CRITIC_STEPS", 1000)
    run = training.Training(torch.full((8, 3, 32, 32), 255).byte(), 0, CPU)
    z = latents(8)

    def scores():
        with torch.no_grad():
            return run.critic(torch.ones(8, 3, 32, 32)).mean(), run.critic(run.generator(z)).mean()

    real, fake = scores()
    for _ in range(10):
        run.advance()
    later_real, later_fake = scores()
    assert later_real - later_fake > real - fake + 0.5
    for step in range(5):
        run._generator_step(torch.Generator().manual_seed(step))
    assert scores()[1] > later_fake


def test_an_epoch_meets_every_image_of_its_batches_once(data):
    run = training.Training(training.load_images(data)[:16], 0, CPU)
    epochs = []
    for _ in range(2):
        batches = []
        for _ in range(2):
            batches.append(run.next_batch())
            run.step += 1
        epochs.append(torch.cat(batches))
    pixels = ((epochs[0] + 1) * 127.5).round().byte()
    assert {image.numpy().tobytes() for image in pixels} == {image.numpy().tobytes() for image in run.images}
    assert not torch.equal(epochs[0], epochs[1])
    assert epochs[0].abs().max() <= 1


def test_training_leaves_the_global_random_state_alone(data, tmp_path):
    before = torch.get_rng_state()
    run(data, tmp_path / "whole")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("other", ["seed", "images"])
def test_a_checkpoint_of_another_training_is_refused(data, tmp_path, other):
    run(data, tmp_path / "out")
    images = training.load_images(data)
    images, seed = (images, 1) if other == "seed" else (255 - images, 0)
    with pytest.raises(
        CheckpointError, match=f"checkpoint: expected {other} .*; name another folder with --out$"
    ):
        training.train(images, 2, seed, tmp_path / "out", CPU)


def test_a_damaged_checkpoint_is_refused(data, tmp_path):
    run(data, tmp_path / "out")
    path = tmp_path / "out" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"found a damaged file; remove it to start anew$"):
        run(data, tmp_path / "out", epochs=3)


def test_a_loss_that_is_not_finite_ends_the_training_before_the_checkpoint(data, tmp_path, monkeypatch):
    run(data, tmp_path / "out", epochs=1)
    before = (tmp_path / "out" / "checkpoint.pt").read_bytes()
    monkeypatch.setattr(training, "gradient_penalty", lambda *_: torch.tensor(torch.nan))
    with pytest.raises(GradientError, match="step 3: expected a finite critic loss, found nan"):
        run(data, tmp_path / "out", epochs=2)
    assert (tmp_path / "out" / "checkpoint.pt").read_bytes() == before


def test_the_command_writes_a_prior_that_loads(data, tmp_path):
    out = tmp_path / "out"
    training.main(["--data", str(data), "--out", str(out), "--epochs", "1", "--device", "cpu"])
    state = load_tensors(out / "wgan-gp.safetensors")
    assert {tensor.dtype for tensor in state.values() if tensor.ndim} == {torch.float32}
    prior = WGANGP(str(out / "wgan-gp.safetensors"))
    generator = Generator(6, 4).eval()
    generator.load_state_dict(state)
    with torch.no_grad():
        expected = (generator(latents()) + 1) / 2
    torch.testing.assert_close(prior.decode(latents()), expected, rtol=0, atol=1e-5)
    with Image.open(out / "samples.png") as image:
        assert image.size == (8 * 34 + 2, 8 * 34 + 2)


def test_the_command_ends_with_code_2_and_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        training.main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "expected a folder of images or an .npz with train_images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_samples_put_the_generators_mode_back(data):
    generator = training.Training(training.load_images(data), 0, CPU).generator
    samples = training.draw(generator, 5, seed=3)
    assert generator.training
    assert samples.shape == (5, 3, 32, 32)
    assert torch.equal(samples, training.draw(generator, 5, seed=3))
    assert 0 <= samples.min() < samples.max() <= 1


def test_a_folder_gives_what_its_images_give(tmp_path):
    """Wider than high, grey, in subfolders; lossless, so that the bytes are those of the arrays."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (8, 32, 50, 3), dtype=np.uint8)
    (tmp_path / "images" / "inner").mkdir(parents=True)
    for i, image in enumerate(pixels):
        folder = tmp_path / "images" / ("inner" if i % 2 else "")
        Image.fromarray(image).save(folder / f"{i}.png")
    Image.fromarray(pixels[0, :, :32, 0]).save(tmp_path / "images" / "z.png")
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    found = training.load_images(tmp_path / "images")
    expected = torch.from_numpy(pixels[[0, 2, 4, 6, 1, 3, 5, 7]]).permute(0, 3, 1, 2)[..., 9:41]
    assert torch.equal(found[:8], expected)
    assert torch.equal(found[8], torch.from_numpy(pixels[0, :, :32, 0]).expand(3, 32, 32))


def test_a_square_of_64_pixels_is_halved_with_antialiasing():
    """The bilinear kernel of twice the width: weights 1, 3, 3, 1 over 8 along each side."""
    images = torch.randint(256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    found = training.fit_square(images)[:, :, 1:-1, 1:-1].float()
    taps = torch.tensor([1.0, 3, 3, 1]) / 8
    windows = images[..., 1:, 1:].float().unfold(2, 4, 2).unfold(3, 4, 2)
    expected = (windows * taps * taps[:, None]).sum((-2, -1))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.51)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((9, 8, 8, 3), np.uint8)}, "with train_images, found neither"),
        (
            {"train_images": np.zeros((9, 8, 8), np.uint8)},
            r"shape \(n, h, w, 3\) and dtype uint8, found \(9, 8, 8\)",
        ),
        ({"train_images": np.zeros((9, 8, 8, 3))}, "dtype uint8, found .* and float64$"),
        (
            {"train_images": np.zeros((7, 8, 8, 3), np.uint8)},
            "expected at least 8 images, one batch, found 7$",
        ),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError, match=message):
        training.load_images(tmp_path / "data.npz")


def test_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    for path in (tmp_path / "none", tmp_path / "text.npz"):
        with pytest.raises(InputError, match=r"expected a folder of images or an \.npz with train_images"):
            training.load_images(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"expected images .* found none$"):
        training.load_images(tmp_path / "folder")
    (tmp_path / "folder" / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken.png: expected an image, found what cannot be read"):
        training.load_images(tmp_path / "folder")
