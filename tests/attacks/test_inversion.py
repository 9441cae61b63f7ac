"""The attacks on a small victim: from an observed gradient to an image, and from an image to an image."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ggl.attacks.inversion import attack, attack_many, invert
from ggl.attacks.target import Target
from ggl.base.errors import CheckpointError, GradientError, InputError, UnknownNameError
from ggl.datasets.loading import load_dataset
from ggl.defenses import load_defense
from ggl.generators import load_prior
from ggl.gradients import GradientOracle, LocalTraining, View
from ggl.victims import load_victim

BUDGET = 96
"""Six generations of CMA-ES at 64 dimensions and of random search, 24 of Adam."""

# The loop's side of the contract; tests/optimizers holds every strategy to its own.
STRATEGIES = ["cma-es", "sep-cma-es", "pycma", "random", "adam"]
FIRST = {"cma-es", "adam"}
"""A group of tensors, and searches side by side that need gradients; the others are left to the long lane."""

each_strategy = pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(s, marks=[] if s in FIRST else [pytest.mark.slow("one more strategy")])
        for s in STRATEGIES
    ],
)


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def prior():
    return load_prior("fashion-dcgan32")


@pytest.fixture(scope="module")
def oracle():
    return GradientOracle(load_victim("mlp", in_channels=1, num_classes=10, image_size=32, seed=0))


@pytest.fixture(scope="module")
def private():
    """Three private images of other classes, and their labels."""
    dataset = load_dataset("fashion-mnist-heldout")
    rows = [int((dataset.labels == label).nonzero()[0]) for label in (0, 1, 7)]
    return dataset.images[rows], dataset.labels[rows]


@pytest.fixture(scope="module")
def targets(oracle, private):
    return [
        Target(f"image {i}", oracle.observe(x[None], y[None]), y[None])
        for i, (x, y) in enumerate(zip(*private, strict=True))
    ]


@pytest.fixture
def run(oracle, targets, prior):
    """Attack the first target with these options."""

    def run(**options):
        settings = {"prior": prior, "budget": BUDGET, "strategy": "sep-cma-es"} | options
        return attack(oracle, targets[0].shared, targets[0].labels, **settings)

    return run


@pytest.fixture(autouse=True)
def checkpoint_always(monkeypatch):
    monkeypatch.setattr("ggl.attacks.search.CHECKPOINT_SECONDS", 0)


def same(first, second):
    return (
        torch.equal(first.images, second.images)
        and torch.equal(first.latents, second.latents)
        and (first.loss, first.history) == (second.loss, second.history)
    )


def mean_squared_error(result, image):
    return (result.images[0] - image).square().mean().item()


@each_strategy
def test_a_result_is_an_image_of_the_prior(run, prior, targets, strategy):
    result = run(strategy=strategy)
    assert result.images.shape == (1, 1, 32, 32)
    assert result.latents.shape == (1, 64)
    with torch.no_grad():
        assert torch.equal(result.images, prior.decode(result.latents, targets[0].labels))
    assert result.evaluations == BUDGET


@each_strategy
def test_the_loss_is_the_distance_plus_the_penalty(run, oracle, prior, targets, strategy):
    result = run(strategy=strategy, latents="shell:0.01", distance="l2")
    distance = oracle.score(result.images, targets[0].labels, targets[0].shared, "l2")
    expected = distance + 0.01 * prior.penalty(result.latents)
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)


@each_strategy
def test_the_seed_defines_the_attack(run, strategy):
    first, second, other = (run(strategy=strategy, seed=seed) for seed in (3, 3, 4))
    assert same(first, second)
    assert not torch.equal(first.images, other.images)


def test_nothing_given_is_changed(run, oracle, prior, targets):
    before = {name: g.clone() for name, g in targets[0].shared.items()}
    weights = {
        name: p.clone() for name, p in [*oracle.model.state_dict().items(), *prior.state_dict().items()]
    }
    random = torch.get_rng_state()
    run(strategy="adam", defense="prune:0.5+clip:1")
    assert all(torch.equal(g, before[name]) for name, g in targets[0].shared.items())
    state = oracle.model.state_dict() | prior.state_dict()
    assert all(torch.equal(state[name], p) for name, p in weights.items())
    assert torch.equal(torch.get_rng_state(), random)


@each_strategy
def test_targets_side_by_side_equal_single_attacks(oracle, targets, prior, strategy):
    """Scores of float32 batches of other sizes differ by rounding, which a search may magnify."""
    options = {"prior": prior, "budget": BUDGET, "strategy": strategy, "seed": 5}
    together = attack_many(oracle, targets, **options)
    for target, result in zip(targets, together, strict=True):
        (alone,) = attack_many(oracle, [target], **options)
        torch.testing.assert_close(result.images, alone.images, rtol=0, atol=1e-3)
        assert result.loss == pytest.approx(alone.loss, rel=1e-3)
        assert result.evaluations == alone.evaluations


def test_targets_of_other_names_search_on_other_streams(oracle, targets, prior):
    twins = [dataclasses.replace(targets[0], name=name) for name in ("one", "two", "one")]
    first, second, third = attack_many(oracle, twins, prior=prior, budget=16, strategy="random")
    assert not torch.equal(first.latents, second.latents)
    assert torch.equal(first.latents, third.latents)


@each_strategy
@pytest.mark.parametrize("generations", [1, 4])
def test_a_stopped_attack_resumes_bit_for_bit(run, tmp_path, strategy, generations):
    calls = []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == generations:
            raise StoppedError

    options = {"strategy": strategy, "defense": "prune:0.9", "restarts": 1, "checkpoint": tmp_path / "a"}
    with pytest.raises(StoppedError):
        run(**options, progress=stop)
    assert same(run(**options), run(**options | {"checkpoint": None}))


VICTIM_OF_A_KILL = """
import sys, time
from pathlib import Path
import ggl.attacks.search
from ggl.attacks.inversion import attack_many
from ggl.attacks.target import Target
from ggl.base.weights import load_tensors
from ggl.generators import load_prior
from ggl.gradients import GradientOracle, LocalTraining, View
from ggl.victims import load_victim

ggl.attacks.search.CHECKPOINT_SECONDS = 0
folder, slow = Path(sys.argv[1]), len(sys.argv) > 2
oracle = GradientOracle(load_victim("mlp", in_channels=1, num_classes=10, image_size=32, seed=0))
shared = load_tensors(folder / "shared.safetensors")
labels = shared.pop("labels")
attack_many(
    oracle, [Target("image 0", shared, labels)], prior=load_prior("fashion-dcgan32"), budget=800,
    strategy="sep-cma-es", seed=5, checkpoint=folder / "attack.ckpt",
    progress=lambda *arguments: time.sleep(0.05),
)
"""


@pytest.mark.slow("kills and resumes")
def test_a_killed_attack_resumes_to_the_result_of_an_uninterrupted_one(oracle, targets, prior, tmp_path):
    """kill -9 in the middle, at whatever moment; the checkpoint in the folder is all that is left."""
    from ggl.base.weights import save_tensors

    save_tensors(tmp_path / "shared.safetensors", targets[0].shared | {"labels": targets[0].labels})
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, "-c", VICTIM_OF_A_KILL, str(tmp_path)], env=environment, cwd=Path.cwd()
    )
    checkpoint = tmp_path / "attack.ckpt"
    while not checkpoint.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    options = {"prior": prior, "budget": 800, "strategy": "sep-cma-es", "seed": 5}
    heard = []
    (resumed,) = attack_many(
        oracle, targets[:1], checkpoint=checkpoint, progress=lambda *a: heard.append(a), **options
    )
    assert 0 < len(heard) < 50
    assert same(resumed, attack_many(oracle, targets[:1], **options)[0])


@pytest.mark.parametrize(
    "change",
    [
        {"strategy": "cma-es"},
        {"strategy": "sep-cma-es:sigma0=0.4"},
        {"budget": 2 * BUDGET},
        {"seed": 1},
        {"restarts": 2},
        {"distance": "l2"},
        {"latents": "free"},
        {"defense": "clip:1"},
        {"attacker": "naive"},
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(run, tmp_path, change):
    run(checkpoint=tmp_path / "a")
    with pytest.raises(CheckpointError, match="other settings"):
        run(checkpoint=tmp_path / "a", **change)


def test_a_checkpoint_does_not_mind_the_order_of_the_parameters(oracle, prior, targets, tmp_path):
    options = {"prior": prior, "budget": 32, "strategy": "random", "checkpoint": tmp_path / "a"}
    shared = dict(reversed(targets[0].shared.items()))
    (first,) = attack_many(oracle, targets[:1], **options)
    (second,) = attack_many(oracle, [dataclasses.replace(targets[0], shared=shared)], **options)
    assert same(first, second)


@pytest.mark.parametrize("other", ["gradient", "labels", "name"])
def test_a_checkpoint_of_another_target_is_refused(oracle, prior, targets, tmp_path, other):
    options = {"prior": prior, "budget": 32, "strategy": "random", "checkpoint": tmp_path / "a"}
    attack_many(oracle, targets[:1], **options)
    changed = {
        "gradient": dataclasses.replace(targets[0], shared=targets[1].shared),
        "labels": dataclasses.replace(targets[0], labels=targets[1].labels),
        "name": dataclasses.replace(targets[0], name="other"),
    }
    with pytest.raises(CheckpointError, match="other settings"):
        attack_many(oracle, [changed[other]], **options)


def test_a_damaged_checkpoint_is_refused(run, tmp_path):
    run(checkpoint=tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        run(checkpoint=tmp_path / "a")


@pytest.mark.parametrize(
    ("value", "reason"), [(torch.nan, "not finite"), (torch.inf, "not finite"), (0.0, "is zero")]
)
def test_a_gradient_with_nothing_to_match_is_refused(oracle, prior, targets, value, reason):
    shared = {name: torch.full_like(g, value) for name, g in targets[0].shared.items()}
    with pytest.raises(GradientError, match=reason):
        attack(oracle, shared, targets[0].labels, prior=prior, budget=BUDGET)


def test_one_number_that_is_not_finite_is_enough_to_refuse(oracle, prior, targets):
    shared = {name: g.clone() for name, g in targets[0].shared.items()}
    shared["fc.bias"][3] = torch.nan
    with pytest.raises(GradientError, match="not finite"):
        attack(oracle, shared, targets[0].labels, prior=prior, budget=BUDGET)


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        ({"budget": 15}, InputError, "below one generation of 16"),
        ({"budget": 31, "restarts": 2}, InputError, "below one generation of 16"),
        ({"restarts": 0}, InputError, "at least 1 restart"),
        ({"strategy": "cmaes"}, UnknownNameError, "did you mean 'cma-es'"),
        ({"defense": "clipp:1"}, UnknownNameError, "did you mean 'clip'"),
        ({"distance": "l3"}, UnknownNameError, "did you mean 'l2'"),
    ],
)
def test_bad_options_are_refused(run, options, kind, reason):
    with pytest.raises(kind, match=reason):
        run(**options)


def test_a_gradient_of_another_victim_is_refused(oracle, prior, targets):
    shared = {name: g for name, g in targets[0].shared.items() if name != "fc.bias"}
    with pytest.raises(InputError, match=r"lacks parameter 'fc\.bias'"):
        attack(oracle, shared, targets[0].labels, prior=prior, budget=BUDGET)


def test_labels_that_the_prior_has_not_are_refused(oracle, prior, targets):
    with pytest.raises(InputError, match="labels 0 to 9, found 10"):
        attack(oracle, targets[0].shared, torch.tensor([10]), prior=prior, budget=BUDGET)


def test_targets_of_several_batch_sizes_and_no_targets_are_refused(oracle, prior, targets):
    pair = dataclasses.replace(targets[1], labels=torch.tensor([1, 7]))
    for wrong in ([targets[0], pair], []):
        with pytest.raises(InputError, match="at least one target, all of one batch size"):
            attack_many(oracle, wrong, prior=prior, budget=BUDGET)


def test_restarts_share_the_budget_and_the_best_wins(run, oracle, targets, prior):
    """Each is what it would be alone: the second restart's stream does not depend on how many there are."""
    heard = []
    several = run(restarts=3, strategy="random", progress=lambda *a: heard.append(a))
    assert heard[-1][:2] == (BUDGET, BUDGET)
    single = run(restarts=1, budget=BUDGET // 3, strategy="random")
    assert several.loss <= single.loss
    assert len(several.history) == len(single.history)


def test_more_restarts_never_lose_to_fewer_of_the_same_length(run):
    losses = [run(restarts=r, budget=r * 32, strategy="random").loss for r in (1, 2, 4)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_a_batch_of_two_gives_two_images(oracle, private, prior):
    images, labels = (x[:2] for x in private)
    result = attack(oracle, oracle.observe(images, labels), labels, prior=prior, budget=60, strategy="cma-es")
    assert result.images.shape == (2, 1, 32, 32)
    assert result.latents.shape == (2, 64)
    with torch.no_grad():
        assert torch.equal(result.images, prior.decode(result.latents, labels))


@pytest.mark.slow("long searches, compared")
def test_an_adaptive_attacker_beats_a_naive_one_under_clipping(oracle, private, targets, prior):
    """Under l2 a naive attacker looks for an image of small gradient, which the private one has not."""
    defense = load_defense("clip:0.05")
    clipped = [dataclasses.replace(t, shared=defense.protect(t.shared, torch.Generator())) for t in targets]
    errors = {}
    for attacker in ("naive", "adaptive"):
        results = attack_many(
            oracle,
            clipped,
            prior=prior,
            budget=240,
            strategy="adam",
            defense=defense,
            attacker=attacker,
            distance="l2",
            latents="free",
        )
        errors[attacker] = sum(map(mean_squared_error, results, private[0]))
    assert errors["adaptive"] < 0.8 * errors["naive"]


@each_strategy
def test_an_attack_beats_the_wrong_gradient(run, oracle, private, targets, prior, strategy):
    """The control: the same search on the gradient of another image, given the private image's label."""
    result = run(strategy=strategy, budget=320)
    loss = oracle.score(result.images, targets[0].labels, targets[0].shared, "cosine").item()
    wrong = attack(oracle, targets[1].shared, targets[0].labels, prior=prior, budget=320, strategy=strategy)
    control = oracle.score(wrong.images, targets[0].labels, targets[0].shared, "cosine").item()
    assert loss < control


def test_inversion_beats_random_search(prior, private):
    images, labels = private
    inverted = invert(images, labels, prior=prior, budget=320)
    drawn = invert(images, labels, prior=prior, budget=320, strategy="random")
    for image, better, worse in zip(images, inverted, drawn, strict=True):
        assert better.loss == pytest.approx(mean_squared_error(better, image), rel=1e-5)
        assert mean_squared_error(better, image) < 0.7 * mean_squared_error(worse, image)


@each_strategy
def test_a_stopped_inversion_resumes_bit_for_bit(prior, private, tmp_path, strategy):
    options = {"prior": prior, "budget": 64, "strategy": strategy}

    def stop(*arguments):
        raise StoppedError

    with pytest.raises(StoppedError):
        invert(*private, **options, checkpoint=tmp_path / "a", progress=stop)
    resumed = invert(*private, **options, checkpoint=tmp_path / "a")
    assert all(map(same, resumed, invert(*private, **options)))


def test_an_inversions_checkpoint_is_its_images_own(prior, private, tmp_path):
    images, labels = private
    options = {"prior": prior, "budget": 32, "strategy": "random", "checkpoint": tmp_path / "a"}
    invert(images, labels, **options)
    with pytest.raises(CheckpointError, match="other settings or images"):
        invert(images.flip(-1), labels, **options)


def test_copies_of_epochs_are_searched_tied_and_merged(prior, data):
    """A search over copies gives one image for each of the client's; its loss holds the tie."""
    victim = load_victim("mlp", in_channels=1, num_classes=10, image_size=32)
    labels = torch.tensor([3, 3, 8, 1])
    local = LocalTraining(4, 0.05, batch_size=2, order="copies", tie=0.0)
    oracle = GradientOracle(victim, local=local)
    shared = oracle.observe(data.images[:4], labels)
    found = {}
    for tie in (0.0, 100.0):
        tied = GradientOracle(victim, local=dataclasses.replace(local, tie=tie))
        found[tie] = attack(tied, shared, labels, prior=prior, strategy="random", budget=20, latents="free")
    for result in found.values():
        assert result.images.shape == (4, 1, 32, 32)
        assert result.latents.shape == (8, prior.latent_dim)
        assert torch.equal(result.labels, labels)
    first, second = prior.decode(found[100.0].latents, labels.repeat(2)).chunk(2)
    swapped = second[[1, 0, 2, 3]]
    pairs = [
        min((first[0] - s[0]).square().sum() + (first[1] - s[1]).square().sum() for s in (second, swapped)),
        (first[2] - second[2]).square().sum() + (first[3] - second[3]).square().sum(),
    ]
    apart = (first - found[100.0].images).square().sum() * 4
    assert apart == pytest.approx(float(sum(pairs)), rel=1e-3)
    tie = (first.mean(0) - second.mean(0)).square().mean() / 2
    view = oracle.prepare(View(shared))
    copies = torch.cat([first, second])[None]
    match = oracle.score(copies, labels.repeat(2), view, "cosine")
    assert found[100.0].loss == pytest.approx(float(match) + 100 * float(tie), rel=1e-3)
