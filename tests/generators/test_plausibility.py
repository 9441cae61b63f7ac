"""What is implausible of a prior: its samples, and what its normalizations meet."""

import warnings

import pytest
import torch
from torch import nn

from ggl.base.errors import InputError
from ggl.commands.check_prior import check
from ggl.generators import Prior, load_prior, register_prior
from ggl.generators.plausibility import (
    ImplausiblePriorWarning,
    doubts_of,
    norm_misfits,
    warn_if_implausible,
)

SIDE = 12


class Drawn(Prior):
    """Images by a function of latents (n, 144) as pixels."""

    name, licence, latent_dim, image_shape = "drawn", "MIT", SIDE**2, (1, SIDE, SIDE)

    def __init__(self, picture):
        super().__init__()
        self.picture = picture

    def decode(self, z, labels=None):
        return self.picture(z.unflatten(1, self.image_shape)).clamp(0, 1)


def smooth(z):
    """Blobs: each pixel the mean over 5 by 5 of noise."""
    return 0.5 + nn.functional.avg_pool2d(z, 5, 1, 2, count_include_pad=False)


PICTURES = {
    "blobs": (smooth, None),
    "digits, mostly black": (lambda z: (smooth(z) * 3 - 1.8).clamp(0, 1), None),
    "one image": (
        lambda z: smooth(z[:1] * 0 + torch.linspace(0, 1, SIDE)).expand(len(z), -1, -1, -1),
        "the same image",
    ),
    "one color each": (lambda z: (0.5 + z[:, :, :1, :1] / 4).expand(-1, -1, SIDE, SIDE), "of one color each"),
    "two colors": (
        lambda z: (smooth(z) > 0.5).float(),
        "100% of its samples' pixels are black or white: saturated",
    ),
    "bright": (
        lambda z: 0.5 + smooth(z).clamp(0, 1) / 2,
        r"darker than middle gray: does it end in a sigmoid",
    ),
    "noise": (lambda z: 0.5 + z / 5, "neighboring pixels of its samples are unrelated"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_samples_that_no_generator_draws_are_doubtful(name):
    picture, doubt = PICTURES[name]
    found = doubts_of(Drawn(picture))
    assert len(found) == (doubt is not None)
    assert doubt is None or doubt in found[0]


@pytest.mark.parametrize("name", ["fashion-dcgan32", "fashion-flow32", "cifar10-gan32", "pixels:3x8x8"])
def test_the_bundled_priors_are_plausible(name):
    assert doubts_of(load_prior(name)) == []


def test_doubts_of_loading_come_first():
    prior = Drawn(lambda z: 0.5 + z / 5)
    prior.doubts = ("another network",)
    assert doubts_of(prior)[0] == "another network"
    assert len(doubts_of(prior)) == 2


def test_one_warning_says_all_and_the_random_state_is_kept():
    prior = Drawn(lambda z: 0.5 + z / 5)
    before = torch.get_rng_state()
    with pytest.warns(
        ImplausiblePriorWarning, match="prior drawn is doubtful: neighboring .*; see ggl check-prior$"
    ) as found:
        assert len(warn_if_implausible(prior)) == 1
    assert len(found) == 1
    assert torch.equal(before, torch.get_rng_state())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert warn_if_implausible(Drawn(smooth)) == []


def test_the_misfit_is_by_hand():
    """Values of mean 3 and deviation 2, recorded as 1 and 4: |3 - 1| / 4 + log 2."""
    norm = nn.BatchNorm1d(1).eval()
    norm.running_mean.fill_(1)
    norm.running_var.fill_(16)
    values = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = ((values - values.mean()) / values.std() * 2 + 3).float()
    assert norm_misfits(norm, lambda: norm(values)) == [pytest.approx(0.5 + 0.6931, abs=1e-4)]
    assert norm_misfits(nn.Linear(1, 1), lambda: None) == []
    assert not norm._forward_pre_hooks


def test_check_prior_says_what_was_assumed_and_what_is_doubtful(capsys):
    @register_prior("assuming")
    class Assuming(Drawn):
        name = "assuming"
        assumed = ("tanh at the end (range=)",)

        def __init__(self):
            super().__init__(lambda z: 0.5 + z / 5)

        def sample(self, n, generator):
            return super().sample(n, generator)

    try:
        check("assuming")
    finally:
        from ggl.generators import priors

        del priors._entries["assuming"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "assumed: tanh at the end (range=)",
        "warning: doubtful, neighboring pixels of its samples are unrelated: pictures of noise",
    ]


def test_what_is_assumed_is_said_of_a_prior_that_fails_too(capsys):
    @register_prior("failing")
    class Failing(Drawn):
        name = "failing"
        assumed = ("something",)

        def __init__(self):
            super().__init__(lambda z: z[:, :, :2])

    try:
        with pytest.raises(InputError, match="fails"):
            check("failing")
    finally:
        from ggl.generators import priors

        del priors._entries["failing"]
    assert capsys.readouterr().out.splitlines()[-1] == "assumed: something"
