"""`check_prior` passes a prior that keeps the contract, and names each way of breaking it."""

import re

import pytest
import torch

from ggl.generators import Prior, load_prior
from ggl.generators.contract import CHECKS, check_prior
from ggl.generators.stages import StagedPrior, stage_of


class Kept(Prior):
    """A prior that keeps the contract."""

    name, licence, latent_dim, image_shape, num_classes = "kept", "MIT", 6, (1, 2, 3), 4

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.linspace(0.5, 1, 6), requires_grad=False)

    def decode(self, z, labels=None):
        self.check_labels(labels)
        return (self.scale * z + labels[:, None].to(z) / 10).sigmoid().unflatten(1, self.image_shape)


class Batched(Kept):
    def decode(self, z, labels=None):
        return super().decode(z - z.mean(0), labels)


class Changing(Kept):
    def decode(self, z, labels=None):
        images = super().decode(z, labels)
        if not z.requires_grad:
            z.clamp_(-1, 1)
        return images


class Detached(Kept):
    def decode(self, z, labels=None):
        return super().decode(z.detach(), labels)


class Fails(Kept):
    def decode(self, z, labels=None):
        raise RuntimeError("no such layer\nand more")


class Flat(Kept):
    def decode(self, z, labels=None):
        return super().decode(z, labels).flatten(1)


class Noisy(Kept):
    def decode(self, z, labels=None):
        return (super().decode(z, labels) + 0.1 * torch.rand(1)).clamp(0, 1)


class Signed(Kept):
    def decode(self, z, labels=None):
        return 2 * super().decode(z, labels) - 1


class Unlabeled(Kept):
    def check_labels(self, labels):
        pass

    def decode(self, z, labels=None):
        return super().decode(z, torch.zeros(len(z)) if labels is None else labels)


class Seeds(Kept):
    def decode(self, z, labels=None):
        torch.manual_seed(0)
        return super().decode(z, labels)


class Asserts(Kept):
    def decode(self, z, labels=None):
        assert len(z) < 3, "too many"
        return super().decode(z, labels)


class Ruled(Kept):
    latents = torch.zeros(3)


class OwnRandomness(Kept):
    def sample(self, n, generator):
        return torch.randn(n, self.latent_dim)


class Shifted(Kept):
    def penalty(self, z):
        return super().penalty(z) + 1


class Trainable(Kept):
    def __init__(self):
        super().__init__()
        self.requires_grad_(True)


class Nameless(Kept):
    name = None


class InStages(Kept, StagedPrior):
    stages = (stage_of((6,)),)

    def features(self, z, labels, stage):
        return self.scale * z

    def finish(self, a, z, labels, stage):
        return (a + labels[:, None].to(a) / 10).sigmoid().unflatten(1, self.image_shape)


class OtherStages(InStages):
    def features(self, z, labels, stage):
        return z


class LongStages(InStages):
    def features(self, z, labels, stage):
        return z.repeat(1, 2)


def problems(prior):
    return {f.check: f.problem for f in check_prior(prior) if f.problem}


@pytest.mark.parametrize("prior", [Kept, InStages, lambda: load_prior("fashion-dcgan32")])
def test_a_prior_that_keeps_it_has_no_problem(prior):
    findings = check_prior(prior())
    assert [f.check for f in findings] == list(CHECKS)
    assert problems(prior()) == {}


@pytest.mark.parametrize(
    ("prior", "check", "words"),
    [
        (Batched, "an image does not depend on its neighbors", "use eval mode"),
        (Changing, "latents are left as they were", "work on a copy"),
        (Detached, "images are differentiable in the latents", "leave out no_grad"),
        (Fails, "images have the stated shape", "raised RuntimeError: no such layer"),
        (Flat, "images have the stated shape", r"expected 4 images of \(1, 2, 3\)"),
        (Noisy, "the same latents give the same images", "fix the network's noise"),
        (Signed, "pixels are in 0 to 1", "found -"),
        (Unlabeled, "labels are needed and checked", "call check_labels first"),
        (OwnRandomness, "samples come from the generator alone", "passed in only"),
        (Seeds, "the same latents give the same images", "let it draw nothing and set no seed"),
        (Asserts, "images have the stated shape", "raised AssertionError: too many"),
        (Ruled, "describes itself", "expected latents to be a name, found Tensor"),
        (Shifted, "the penalty has mean 0", "expected a penalty of mean 0"),
        (Trainable, "images are differentiable in the latents", r"requires_grad_\(False\)"),
        (OtherStages, "stages make the same images", "other images of the features after stage 1"),
        (LongStages, "stages make the same images", r"expected features of \(2, 6\) after stage 1"),
        (Nameless, "describes itself", "expected name to be a str, found None"),
    ],
)
def test_each_way_of_breaking_it_is_named(prior, check, words):
    found = problems(prior())
    assert check in found
    (line,) = found[check].splitlines()
    assert re.search(words, line)


def test_the_check_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    check_prior(Kept())
    assert torch.equal(before, torch.get_rng_state())
