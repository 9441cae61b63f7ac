"""The fit of an early exit: it lowers the error, keeps what is published, goes on where it stopped."""

import copy

import pytest
import torch

from ggl.base.errors import CheckpointError
from ggl.generators.mobilestylegan import distill, pictures
from ggl.generators.mobilestylegan.early_exit import EarlyExit, fitted_names
from ggl.generators.mobilestylegan.network import Pointwise
from ggl.generators.mobilestylegan.prior import MobileStyleGAN


class Narrow(EarlyExit):
    """An exit whose tail is one small layer."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        generator = torch.Generator().manual_seed(0)
        self.blocks = torch.nn.ModuleList([torch.nn.Identity()])
        self.bands = Pointwise(3, 3)
        for parameter in self.bands.parameters():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)

    def finish(self, x, style, stage):
        return self.bands(x, style)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(distill, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(distill, "LEARNING_RATE", 0.01)
    monkeypatch.setattr(distill, "WARM_UP", 5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def run(network, out, steps, stop=None):
    """Fit to random pictures, stopped after a step if asked; return the fit."""
    out.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(20, 3, 4, 4, generator=generator).half()
    styles = torch.randn(20, 512, generator=generator)
    images = torch.rand(20, 3, 4, 4, generator=generator)
    state = distill.Fit(network, steps, seed=0)
    advance = state.advance
    if stop is not None:

        def stopping(*batch):
            if state.step == stop:
                raise KeyboardInterrupt
            advance(*batch)

        state.advance = stopping
    distill.fit(state, maps, styles, images, out)
    loss = (network.finish(maps.float(), styles, 1) / 2 + 0.5 - images).square().mean()
    return state, loss.item()


def test_a_fit_lowers_the_error_of_fitted_tensors_alone(tmp_path):
    network = Narrow()
    before = copy.deepcopy(network.state_dict())
    unfitted = run(network, tmp_path / "one", 1)[1]
    assert run(network, tmp_path / "fit", 60)[1] < 0.8 * unfitted
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {*fitted_names(network)}


def test_a_killed_fit_ends_as_one_that_was_not(tmp_path):
    whole, start = tmp_path / "whole", Narrow()
    run(expected := copy.deepcopy(start), whole, 7)
    with pytest.raises(KeyboardInterrupt):
        run(copy.deepcopy(start), tmp_path / "killed", 7, stop=5)
    run(found := copy.deepcopy(start), tmp_path / "killed", 7)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


class Prior(MobileStyleGAN):
    """In place of the whole network's prior."""

    space, truncation = "w", 1.0
    style_mean, style_root = torch.full((512,), 0.25), 0.5 * torch.eye(512, dtype=torch.float64)
    drawn = 0

    def __init__(self):
        torch.nn.Module.__init__(self)

    def mapping(self, z):
        return 2 * z

    def synthesis(self, style):
        Prior.drawn += 1
        return style[:, :3, None, None].expand(-1, 3, 256, 256)


def test_pictures_are_drawn_once_of_mapped_latents_and_of_gaussian_styles(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "PART", 3)
    mapped, gaussian = (pictures.styles_of_part(Prior(), 0, part) for part in (0, 1))
    assert mapped.std() == pytest.approx(2, rel=0.1)
    assert gaussian.std() == pytest.approx(0.5, rel=0.1)
    assert gaussian.mean() == pytest.approx(0.25, abs=0.05)
    first = pictures.draw_part(Prior(), tmp_path, 0, 1)
    assert Prior.drawn == 3
    assert first.shape == (3, 3, 128, 128)
    wanted = (gaussian[:, :3] / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(first[:, :, 5, 7], wanted, rtol=0, atol=5e-4)
    assert torch.equal(pictures.draw_part(Prior(), tmp_path, 0, 1), first)
    assert Prior.drawn == 3


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    run(Narrow(), tmp_path, 3)
    with pytest.raises(CheckpointError, match="name another folder with --out"):
        run(Narrow(), tmp_path, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "4"], "expected --parts of at least 5, found 4"),
        (["--steps", "0"], "expected --steps of at least 1, found 0"),
    ],
)
def test_counts_that_leave_nothing_to_fit_are_refused(tmp_path, monkeypatch, capsys, arguments, message):
    folders = ["--pictures", str(tmp_path / "pictures"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["distill", "64", *folders, *arguments])
    with pytest.raises(SystemExit) as caught:
        distill.main()
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
