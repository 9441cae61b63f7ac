"""Activations as what is searched: their coordinates, the ball around them, names, refusals, searches."""

import math

import numpy as np
import pytest
import test_dcgan_checkpoint
import test_stylegan2_prior
import torch

from ggl.attacks import search
from ggl.attacks.inversion import attack, invert
from ggl.base.errors import InputError, UnknownNameError
from ggl.generators import Prior, features, load_prior
from ggl.generators.features import Features
from ggl.generators.principal import principal_directions
from ggl.generators.stages import Chain, StagedPrior, stage_of
from ggl.gradients import GradientOracle
from ggl.victims import load_victim

FASHION = "fashion-dcgan32"


class Line(StagedPrior):
    """Seven activations, in a plane of standard deviations 3 and 1, each class elsewhere."""

    name, licence, latent_dim, image_shape, num_classes = "line", "MIT", 2, (1, 1, 7), 3
    stages = (stage_of((7,)),)

    def features(self, z, labels, stage):
        self.check_labels(labels)
        a = torch.zeros(len(z), 7)
        a[:, 2], a[:, 5], a[:, 0] = 3 * z[:, 0], -z[:, 1], 10.0 * labels
        return a

    def finish(self, a, z, labels, stage):
        return (0.1 * a).sigmoid().unflatten(1, self.image_shape)

    def decode(self, z, labels=None):
        return self.finish(self.features(z, labels, 1), z, labels, 1)


class Styled(Line):
    reads_latents = True

    def finish(self, a, z, labels, stage):
        return (0.1 * a + z.sum(1, keepdim=True)).sigmoid().unflatten(1, self.image_shape)


@pytest.fixture(scope="module")
def fashion():
    return load_prior(f"{FASHION}:space=features,stage=2,dims=16")


def draw(prior, n=3, seed=0):
    return prior.sample(n, torch.Generator().manual_seed(seed)), torch.arange(n)


def test_principal_directions_are_those_of_the_singular_values():
    rows = torch.randn(9, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows -= rows.mean(0)
    directions, u = principal_directions(rows, 4, 8)
    _, values, vectors = np.linalg.svd(rows.numpy(), full_matrices=False)
    wanted = vectors[:4] * values[:4, None] / math.sqrt(8)
    np.testing.assert_allclose(directions.abs().numpy(), np.abs(wanted), atol=1e-10)
    assert (directions.gather(1, directions.abs().argmax(1, keepdim=True)) > 0).all()
    torch.testing.assert_close(u.T @ u / 8, torch.eye(4, dtype=torch.float64))
    whole, coordinates = principal_directions(rows, 9, 8)
    torch.testing.assert_close(coordinates[:, :8] @ whole[:8], rows)


def test_the_rows_columns_are_multiplied_in_parts(monkeypatch):
    rows = torch.randn(6, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = principal_directions(rows, 3, 5)
    monkeypatch.setattr("ggl.generators.principal.COLUMNS", 7)
    torch.testing.assert_close(principal_directions(rows, 3, 5), whole)


def test_coordinates_are_those_of_the_activations():
    """The plane's axes by their deviations, within five standard errors; each class around its own mean."""
    prior = Features(Line(), 1, dims=2)
    n = 48
    assert prior.latent_dim == 2
    sizes = prior.directions.norm(dim=1)
    for size, wanted in zip(sizes.tolist(), (3, 1), strict=True):
        assert abs(size / wanted - 1) < 5 / math.sqrt(2 * n)
    assert prior.directions.abs().argmax(1).tolist() == [2, 5]
    torch.testing.assert_close(prior.means[:, 0], torch.tensor([0.0, 10, 20]))
    assert prior.assumed == (
        "2 directions after stage 1 of 1 (7 values), which hold 100% of other samples' variance",
    )
    image = prior.decode(torch.tensor([[0.0, 1.0]]), torch.tensor([2]))
    torch.testing.assert_close(image.logit().flatten() * 10, prior.means[2] + prior.directions[1])


def test_no_coordinate_is_further_out_than_a_sample(fashion):
    """In l1 norm, radially: the image at twice the radius is that on the ball."""
    z, labels = draw(fashion, 2)
    ball = fashion.radius * z / z.abs().sum(1, keepdim=True)
    torch.testing.assert_close(fashion.decode(2 * ball, labels), fashion.decode(ball, labels))
    assert (fashion.decode(ball, labels) - fashion.decode(0.9 * ball, labels)).abs().max() > 1e-3
    n = max(16 * features.OF_A_DIRECTION, 10 * features.OF_A_CLASS)
    a, classes = map(torch.cat, zip(*fashion._samples(n, "features"), strict=True))
    own = (a - fashion.means[classes]) @ (fashion.directions / fashion.directions.norm(dim=1)[:, None] ** 2).T
    assert own.abs().sum(1).max().item() == pytest.approx(fashion.radius, rel=1e-3)
    torch.testing.assert_close(own.var(0) * (n - 1) / (n - 10), torch.ones(16), rtol=1e-3, atol=1e-3)


def test_half_of_the_variance_is_held_by_directions_of_other_samples(fashion):
    """That of samples of another seed, by the definition; within 3 %, as samples differ."""
    z, labels = torch.randn(500, 64, generator=torch.Generator().manual_seed(5)), torch.arange(500) % 10
    a = fashion.prior.features(z, labels, 2) - fashion.means[labels]
    q, _ = torch.linalg.qr(fashion.directions.T)
    share = float((a @ q).square().sum() / a.square().sum())
    (stated,) = fashion.assumed
    assert abs(float(stated.partition("hold ")[2].partition("%")[0]) / 100 - share) < 0.03


def test_around_what_latents_make_it_is_the_prior_itself(fashion):
    prior = Features(fashion.prior, 3, dims=8, around=0.5)
    z, labels = draw(prior)
    assert prior.latent_dim == 64 + 8
    still = torch.cat((z[:, :64], torch.zeros(3, 8)), 1)
    assert torch.equal(prior.decode(still, labels), fashion.prior.decode(z[:, :64], labels))
    a = prior.prior.features(z[:, :64], labels, 3) + 0.5 * z[:, 64:] @ prior.directions
    torch.testing.assert_close(prior.decode(z, labels), prior.prior.finish(a, z, labels, 3))
    u, latents = z[:, 64:], z[:, :64]
    wanted = fashion.prior.penalty(latents) + Prior.penalty(prior, u)
    torch.testing.assert_close(prior.penalty(z), wanted)


def test_where_later_layers_read_latents_these_are_searched_too():
    prior = Features(Styled(), 1, dims=2)
    assert (prior.around, prior.latent_dim, prior.z_dim) == (features.AROUND, 4, 2)
    z, labels = draw(prior)
    still = torch.cat((z[:, :2], torch.zeros(3, 2)), 1)
    assert torch.equal(prior.decode(still, labels), prior.prior.decode(z[:, :2], labels))


def test_a_chain_may_be_entered_before_every_layer_with_weights():
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 32),
        torch.nn.ReLU(),
        torch.nn.Unflatten(1, (2, 4, 4)),
        torch.nn.Upsample(scale_factor=2),
        torch.nn.Conv2d(2, 5, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.Conv2d(5, 1, 3, padding=1),
    )
    chain = Chain(network, torch.zeros(1, 3))
    assert [stage.name for stage in chain.stages] == ["2 maps of 4 px", "5 maps of 8 px"]
    x = torch.randn(2, 3)
    for stage in (1, 2):
        assert torch.equal(chain.finish(network, chain.begin(network, x, stage), stage), network(x))


def test_a_name_and_the_class_make_the_same(fashion):
    z, labels = draw(fashion)
    again = Features(load_prior(FASHION), 2, dims=16)
    assert again.name == fashion.name == f"{FASHION}:space=features,stage=2,dims=16"
    assert torch.equal(again.decode(z, labels), fashion.decode(z, labels))
    assert (fashion.heldout, fashion.licence, fashion.latents) == (
        "fashion-mnist-heldout",
        "MIT",
        "shell:0.001",
    )


@pytest.mark.parametrize("space", ["", "space=w", "space=w+,layers=2"])
def test_features_stand_upon_any_space_of_a_prior(tmp_path, space):
    """The name says which, and loads it again."""
    name = test_stylegan2_prior.make_tiny(tmp_path, f"{space},size=16".removeprefix(","))
    upon = name.replace("space=w+", "space=w+/features").replace("space=w,", "space=w/features,")
    asked = f"{upon}{'' if space else ',space=features'},stage=1,dims=4"
    prior = load_prior(asked)
    assert (prior.prior.name, prior.name) == (name, asked)
    assert Features(load_prior(name), 1, dims=4).name == asked
    assert [stage.name for stage in prior.prior.stages] == [
        "8 maps of 4 px and the image so far",
        "8 maps of 8 px and the image so far",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", r"expected stage= as one of 1 \(192 maps of 4 px\), 2 \(96 maps of 8 px\), .*; found none"),
        (",space=w/features,stage=1", "expected nothing after the name, found 'space=w'"),
        (",stage=0", "expected stage= as one of 1 .*; found 0"),
        (",stage=5", r"4 \(32 maps of 32 px\); found 5"),
        (",stage=two", "expected a number for stage, found 'two'"),
        (",stage=1,stage=2", "expected option=value, each once, found 'stage=2'"),
        (",stage=1,dims=0", "expected dims of 1 to 3,072 at stage 1, found 0"),
        (",stage=1,dims=4000", "expected dims of 1 to 3,072 at stage 1, found 4,000"),
        (",stage=4,dims=3000", r"3,000 directions of stage 4 \(32 maps of 32 px\) take 1\d\.\d GB"),
        (",stage=1,around=0", "expected around above 0, at most 1, found 0"),
        (",stage=1,around=1.5", "expected around above 0, at most 1, found 1.5"),
        (",stage=1,size=3", "expected nothing after the name, found 'size=3'"),
    ],
)
def test_what_does_not_fit_ends_in_a_line(options, words):
    with pytest.raises(InputError, match=words) as refusal:
        load_prior(f"{FASHION}:space=features{options}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("space", ["featurs", "w/feature"])
def test_a_misspelled_space_is_told_what_was_meant(space):
    with pytest.raises(UnknownNameError, match=f"no space is named '{space}'; did you mean 'features'"):
        load_prior(f"{FASHION}:space={space},stage=2")


def test_a_prior_that_names_no_stages_is_refused():
    with pytest.raises(InputError, match="prior pixels:1x8x8: space=features needs a network that names its"):
        load_prior("pixels:1x8x8,space=features,stage=1")
    empty = Line()
    empty.stages = ()
    with pytest.raises(InputError, match="prior line: space=features needs a network that names its stages"):
        Features(empty, 1)


def test_labels_are_those_of_the_prior(fashion):
    with pytest.raises(InputError, match="class-conditional: expected labels, found none"):
        fashion.decode(torch.zeros(1, 16))
    with pytest.raises(InputError, match="labels 0 to 9, found 10"):
        fashion.decode(torch.zeros(1, 16), torch.tensor([10]))


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("strategy", ["cma-es", "gauss-newton", "adam"])
def test_a_search_of_features_goes_on_where_it_was_stopped(tmp_path, monkeypatch, fashion, strategy):
    monkeypatch.setattr(search, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(search, "SAVING_SHARE", 0)
    victim = load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0)
    oracle, label = GradientOracle(victim), torch.tensor([3])
    shared = oracle.observe(fashion.decode(0.5 * torch.ones(1, 16), label), label)

    def searched(name, progress=None):
        told = {"prior": fashion, "strategy": strategy, "budget": 60, "checkpoint": tmp_path / name}
        return attack(oracle, shared, label, progress=progress, **told)

    def stop(done, planned, loss):
        if done >= 30:
            raise StoppedError

    whole = searched("whole")
    with pytest.raises(StoppedError):
        searched("stopped", stop)
    assert torch.equal(searched("stopped").latents, whole.latents)
    assert whole.history[-1][1] < whole.history[0][1]


def test_the_ceiling_is_that_of_the_searched_space(fashion):
    """An image that the features make is found by an inversion in them, and not by one of latents."""
    image, label = fashion.decode(torch.tensor([[1.5, -1.5] * 8]), torch.tensor([1])), torch.tensor([1])
    errors = [
        invert(image, label, prior=prior, strategy="adam:starts=1", budget=120)[0].loss
        for prior in (fashion, fashion.prior)
    ]
    assert errors[0] < 0.3 * errors[1]


def test_unconditional_networks_have_one_mean(tmp_path):
    prior = load_prior(f"{test_dcgan_checkpoint.make_tiny(tmp_path)},space=features,stage=3,dims=4")
    assert prior.means.shape == (1, 2048)
    assert prior.num_classes is None
