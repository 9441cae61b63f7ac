import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ggl.base.errors import GradientError, InputError, UnknownNameError
from ggl.costs.federated import accuracy, rehearse, train
from ggl.costs.federation import Federation
from ggl.costs.partitions import split_clients
from ggl.defenses import Defense, NoDefense, load_defense
from ggl.gradients import Sampled
from ggl.victims import load_victim

CLASSES, SIDE = 3, 4
quick = settings(max_examples=40)


def linear(seed=0, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES))
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=random, dtype=torch.float64).to(dtype) / 10
    return model.to(dtype).eval()


def blobs(n, seed=0):
    """Images of three classes whose brightest row tells the class: linearly separable."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    images = 0.6 * torch.rand(n, 1, SIDE, SIDE, generator=random)
    images[torch.arange(n), 0, labels] += 0.4
    return images, labels


def numbered(n):
    """Images that hold their own number over n in every pixel."""
    return (torch.arange(n) / n)[:, None, None, None].expand(n, 1, SIDE, SIDE).contiguous()


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


class Recorder(Defense):
    """Shares the gradient, counts in the client's memory, and keeps what it was given."""

    name = "recorder"

    def __init__(self):
        self.seen = []

    def share(self, client, generator):
        g = client.gradient()
        count = client.memory.get("count", {"n": torch.zeros(())})["n"] + 1
        client.memory["count"] = {"n": count}
        drawn = float(torch.rand((), generator=generator))
        self.seen.append((client.memory, client.round, client.rounds, client.seed, client.images, drawn))
        return g


class Altering(Defense):
    """Shares what a function makes of the gradient."""

    name = "altering"

    def __init__(self, function):
        self.function = function

    def protect(self, gradients, generator):
        return {name: self.function(g) for name, g in gradients.items()}


# Splits


@quick
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.integers(1, 60),
    st.sampled_from(["iid", "dirichlet:1e-6", "dirichlet:0.1", "dirichlet:1", "dirichlet:1e6"]),
    st.integers(0, 5),
)
def test_a_split_gives_every_example_to_one_client_and_sizes_differ_by_one(labels, clients, partition, seed):
    clients = min(clients, len(labels))
    parts = split_clients(torch.tensor(labels), clients, partition, seed)
    sizes = [len(part) for part in parts]
    assert len(parts) == clients
    assert torch.cat(parts).sort().values.tolist() == list(range(len(labels)))
    assert 1 <= min(sizes) <= max(sizes) <= min(sizes) + 1


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.5"])
def test_the_seed_defines_the_split(partition):
    labels = torch.arange(100) % 10
    first, again, other = (split_clients(labels, 5, partition, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def chi_square(partition):
    """Return Pearson's statistic of clients against classes: 10 of each, 6,000 examples."""
    labels = torch.arange(6000) % 10
    parts = split_clients(labels, 10, partition)
    counts = np.array([torch.bincount(labels[part], minlength=10).numpy() for part in parts])
    return ((counts - 60) ** 2 / 60).sum()


def test_an_iid_split_is_balanced_as_chance_has_it():
    """With both margins fixed the statistic has a mean of 81 · n / (n - 1) and about 2 · 81 as variance.

    Five standard deviations, 64, are allowed on either side; a Dirichlet split of ALPHA 10 is far beyond.
    """
    assert abs(chi_square("iid") - 81) < 64
    assert chi_square("dirichlet:10") > 10 * 81


def concentration(labels, part):
    """Return the sum of a client's squared class shares: 1 for a single class, 0.1 for ten even ones."""
    return float((torch.bincount(labels[part], minlength=10) / len(part)).square().sum())


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_a_clients_classes_are_drawn_from_dir_alpha_p(alpha):
    """For q of Dir(alpha p), p even over K = 10: E sum q² = (alpha / K + 1) / (alpha + 1) = s.

    Of m = 20 drawn examples the squared shares sum to s + (1 - s) / m on average. The first client meets no
    class that is used up. The mean of 200 splits may miss by four of its standard errors.
    """
    labels = torch.arange(200) % 10
    found = [
        concentration(labels, split_clients(labels, 10, f"dirichlet:{alpha}", seed)[0]) for seed in range(200)
    ]
    s = (alpha / 10 + 1) / (alpha + 1)
    assert abs(np.mean(found) - (s + (1 - s) / 20)) < 4 * np.std(found) / math.sqrt(200)


def test_skew_grows_as_alpha_falls():
    labels = torch.arange(2000) % 10
    skews = []
    for partition in ("iid", "dirichlet:10", "dirichlet:1", "dirichlet:0.1"):
        parts = split_clients(labels, 10, partition)
        skews.append(np.mean([concentration(labels, part) for part in parts]))
    assert all(b > a + 0.04 for a, b in itertools.pairwise(skews))
    assert skews[0] < 0.12
    assert skews[-1] > 0.6


def test_classes_may_have_any_number_of_examples_and_some_none():
    labels = torch.tensor([7] * 50 + [2] * 3)
    parts = split_clients(labels, 4, "dirichlet:0.01")
    assert torch.cat(parts).sort().values.tolist() == list(range(53))


@pytest.mark.parametrize(
    ("clients", "partition", "message"),
    [
        (4, "iid", "expected 1 to 3 clients, one example each at least; found 4"),
        (0, "iid", "expected 1 to 3 clients, one example each at least; found 0"),
        (2, "dirichlet", "partition 'dirichlet': expected a number after the colon"),
        (2, "dirichlet:x", "partition 'dirichlet:x': expected a number after the colon"),
        (2, "dirichlet:0", "partition 'dirichlet:0': expected a concentration of 1e-06 to 1e+06"),
        (2, "dirichlet:nan", "partition 'dirichlet:nan': expected a concentration of 1e-06 to 1e+06"),
    ],
)
def test_a_split_that_cannot_be_is_refused(clients, partition, message):
    with pytest.raises(InputError) as error:
        split_clients(torch.tensor([0, 1, 2]), clients, partition)
    assert str(error.value) == message


def test_an_unknown_partition_is_refused_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match="did you mean 'dirichlet:ALPHA'"):
        split_clients(torch.tensor([0, 1]), 2, "dirichle:1")


# Training


@pytest.mark.parametrize(("momentum", "rounds"), [(0.0, 1), (0.9, 5)])
def test_undefended_rounds_are_sgd_on_the_concatenated_batch(momentum, rounds):
    """Ten examples, clients of 4, 3 and 3, all used: the weighted mean is the whole set's gradient."""
    images, labels = blobs(10)
    victim = linear(dtype=torch.float64)
    expected = copy.deepcopy(victim)
    sgd = torch.optim.SGD(expected.parameters(), lr=0.3, momentum=momentum)
    for _ in range(rounds):
        sgd.zero_grad()
        F.cross_entropy(expected(images.double()), labels).backward()
        sgd.step()
    federation = Federation(
        clients=3, rounds=rounds, batch_size=4, learning_rate=0.3, momentum=momentum, partition="dirichlet:1"
    )
    model, training = train(victim, images, labels, NoDefense(), federation)
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert (training.rounds, training.diverged) == (rounds, False)


def test_the_victim_its_mode_and_the_global_random_state_are_left_alone():
    images, labels = blobs(12)
    victim, untouched = linear(), linear()
    before = torch.get_rng_state()
    model, _ = train(victim, images, labels, load_defense("noise:0.1"), Federation(clients=2, rounds=2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same_weights(victim, untouched)
    assert not same_weights(model, victim)
    assert not model.training
    assert train(victim.train(), images, labels, NoDefense(), Federation(clients=2, rounds=1))[0].training


def test_the_seed_defines_the_training():
    images, labels = blobs(60)
    federation = Federation(clients=4, rounds=4, batch_size=5, participation=0.5)
    first, again, other = (
        train(linear(), images, labels, load_defense("noise:0.1"), federation, seed=seed)[0]
        for seed in (0, 0, 1)
    )
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_every_client_keeps_its_own_memory_and_its_own_examples():
    n, clients, rounds = 30, 3, 4
    defense, done = Recorder(), []
    federation = Federation(clients=clients, rounds=rounds, batch_size=5)
    train(linear(), numbered(n), torch.arange(n) % CLASSES, defense, federation, progress=done.append)
    memories = {id(memory): memory for memory, *_ in defense.seen}
    assert len(memories) == clients
    assert [float(memory["count"]["n"]) for memory in memories.values()] == [rounds] * clients
    assert [t for _, t, *_ in defense.seen] == [t for t in range(rounds) for _ in range(clients)]
    assert {total for _, _, total, *_ in defense.seen} == {rounds}
    assert done == [1, 2, 3, 4]
    owners = {}
    for memory, _, _, _, images, _ in defense.seen:
        drawn = (images[:, 0, 0, 0] * n).round().int().tolist()
        assert len(set(drawn)) == 5
        owners.setdefault(id(memory), set()).update(drawn)
    shares = [set(part.tolist()) for part in split_clients(torch.arange(n) % CLASSES, clients)]
    assert all(any(held <= share for share in shares) for held in owners.values())
    assert sum(map(len, owners.values())) == len(set().union(*owners.values()))


def test_every_round_and_client_draws_anew():
    defense = Recorder()
    images, labels = blobs(30)
    train(linear(), images, labels, defense, Federation(clients=3, rounds=4, batch_size=5))
    seeds = [seed for _, _, _, seed, _, _ in defense.seen]
    draws = [drawn for *_, drawn in defense.seen]
    batches = [tuple(images.flatten().tolist()) for _, _, _, _, images, _ in defense.seen]
    assert len(set(seeds)) == len(set(draws)) == len(set(batches)) == 12


@pytest.mark.parametrize(("participation", "drawn"), [(1.0, 5), (0.5, 2), (0.01, 1)])
def test_a_share_of_the_clients_is_drawn_for_each_round(participation, drawn):
    """Thirty rounds miss one of five clients with a probability of at most 5 · 0.8^30 = 0.6 %, if that."""
    defense = Recorder()
    images, labels = blobs(15)
    train(linear(), images, labels, defense, Federation(clients=5, rounds=30, participation=participation))
    rounds = [t for _, t, *_ in defense.seen]
    assert [rounds.count(t) for t in range(30)] == [drawn] * 30
    assert len({id(memory) for memory, *_ in defense.seen}) == 5


def test_a_separable_set_is_learned():
    images, labels = blobs(300)
    test_images, test_labels = blobs(300, seed=1)
    assert accuracy(linear(), test_images, test_labels) < 0.6
    federation = Federation(clients=3, rounds=80, batch_size=10, learning_rate=0.2)
    model, _ = train(linear(), images, labels, NoDefense(), federation)
    assert accuracy(model, test_images, test_labels) > 0.9


def test_the_defenses_wrapped_victim_is_trained():
    class Widening(NoDefense):
        def wrap(self, victim, seed=0):
            return nn.Sequential(victim, nn.Linear(CLASSES, CLASSES))

    images, labels = blobs(12)
    model, _ = train(linear(), images, labels, Widening(), Federation(clients=2, rounds=1))
    assert len(list(model.parameters())) == 4


def test_bytes_are_counted_by_the_defense():
    """48 weights and 3 biases: all of them take 4 · 51 bytes; 3 non-zero ones 3 · 4 and a bitmap of 7."""
    images, labels = blobs(12)
    federation = Federation(clients=2, rounds=2)
    biases = Altering(lambda g: g if g.dim() == 1 else torch.zeros_like(g))
    sizes = [train(linear(), images, labels, d, federation)[1].client_bytes for d in (NoDefense(), biases)]
    assert sizes == [204, 19]


def test_a_clients_time_is_told_apart_from_its_gradients():
    images, labels = blobs(12)

    def slow(g):
        torch.linalg.eigvalsh(torch.eye(150))
        return g

    _, training = train(linear(), images, labels, Altering(slow), Federation(clients=2, rounds=3))
    assert 0 < training.gradient_seconds < training.client_seconds < training.round_seconds


def test_a_zero_gradient_is_shared_as_it_is():
    victim = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2), nn.ReLU(), nn.Linear(2, 3, bias=False))
    victim[1].weight.data.zero_()
    victim[1].bias.data.fill_(-1)
    images, labels = blobs(12)
    model, training = train(victim.eval(), images, labels, NoDefense(), Federation(clients=2, rounds=3))
    assert (training.rounds, training.diverged) == (3, False)
    assert same_weights(model, victim)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_ends_the_training(value):
    images, labels = blobs(12)
    defense = Altering(lambda g: g * value)
    model, training = train(linear(), images, labels, defense, Federation(clients=2, rounds=3))
    assert (training.rounds, training.diverged) == (0, True)
    assert same_weights(model, linear())


def test_weights_that_overflow_end_the_training_before_they_do():
    """Shared gradients of 1e37 at a rate of 1 move every weight by (1 + 0.9 + ... + 0.9^k) 1e37 in step k.

    A step that would bring the sum beyond 34.03e37, the largest float32, is not taken.
    """

    class Huge(Defense):
        name = "huge"

        def share(self, client, generator):
            return {name: torch.full_like(p, 1e37) for name, p in client.model.named_parameters()}

    federation = Federation(clients=2, rounds=50, learning_rate=1.0)
    model, training = train(linear(), *blobs(12), Huge(), federation)
    moved = np.cumsum(np.cumsum(0.9 ** np.arange(50)))
    assert (training.rounds, training.diverged) == (int((moved < 34.03).sum()), True)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_victim_that_gives_no_finite_gradient_shares_nothing():
    victim = linear()
    victim[1].bias.data.fill_(math.nan)
    images, labels = blobs(12)
    _, training = train(victim, images, labels, NoDefense(), Federation(clients=2, rounds=3))
    assert (training.rounds, training.diverged) == (0, True)
    assert math.isnan(training.client_bytes)
    assert math.isnan(training.client_seconds)


def test_a_gradient_error_of_a_defense_ends_the_training():
    class Failing(Defense):
        name = "failing"

        def protect(self, gradients, generator):
            raise GradientError("nothing left")

    images, labels = blobs(12)
    assert train(linear(), images, labels, Failing(), Federation(clients=2, rounds=3))[1].diverged


# Accuracy


def test_accuracy_counts_images_whose_largest_logit_is_their_class():
    class Reader(nn.Module):
        """Logits read off the first row; a pixel of 1 in the corner makes them undefined."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            undefined = torch.where(x[:, 0, 3, 3] == 1, torch.nan, 0.0)
            return self.scale * x[:, 0, 0, :3] + undefined[:, None]

    images = torch.zeros(4, 1, SIDE, SIDE)
    images[torch.arange(4), 0, 0, torch.tensor([0, 1, 2, 0])] = 0.5
    assert accuracy(Reader(), images, torch.tensor([0, 1, 2, 1])) == 0.75
    images[0, 0, 3, 3] = 1
    assert accuracy(Reader(), images, torch.tensor([0, 1, 2, 1])) == 0.5


class Noisy(Sampled):
    def forward(self, x):
        self.keep_penalty(torch.ones(len(x)))
        return x + self.noise(x)


def test_a_victim_that_samples_trains_and_is_tested_on_noise_of_the_seed():
    images, labels = blobs(600)
    victim = nn.Sequential(linear(), Noisy()).eval()
    federation = Federation(clients=2, rounds=2)
    first, again = (train(victim, images, labels, NoDefense(), federation)[0] for _ in range(2))
    assert same_weights(first, again)
    zeros, labels = torch.zeros(1000, 1, SIDE, SIDE), torch.zeros(1000, dtype=torch.int64)
    found = [accuracy(victim, zeros, labels, seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    first_half = accuracy(victim, zeros[:500], labels[:500])
    assert first_half != 2 * found[0] - first_half  # the second half's: it meets other noise
    assert victim[1].seed == 0


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clients": 0}, "expected clients to be at least 1, found 0"),
        ({"rounds": 0}, "expected rounds to be at least 1, found 0"),
        ({"batch_size": -1}, "expected batch_size to be at least 1, found -1"),
        ({"participation": 0.0}, "expected participation in (0, 1], found 0"),
        ({"participation": 1.1}, "expected participation in (0, 1], found 1.1"),
        ({"learning_rate": math.inf}, "expected a learning rate above 0, found inf"),
        ({"learning_rate": math.nan}, "expected a learning rate above 0, found nan"),
        ({"momentum": 1.0}, "expected a momentum in [0, 1), found 1"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(InputError) as error:
        Federation(**options)
    assert str(error.value) == f"federated training: {message}"


@pytest.mark.parametrize("function", [train, rehearse])
def test_batch_normalization_is_refused(function):
    victim = load_victim("resnet18", in_channels=1, num_classes=3, image_size=8)
    with pytest.raises(InputError) as error:
        function(victim, torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64), NoDefense(), Federation())
    assert str(error.value) == (
        "federated training: the victim has batch normalization ('bn1'), whose running "
        "statistics no shared gradient updates; use one without, such as resnet18-groupnorm"
    )


def test_a_rehearsal_refuses_what_a_training_would():
    images, labels = blobs(12)
    rehearse(linear(), images, labels, NoDefense(), Federation(clients=2))
    with pytest.raises(InputError, match="expected labels from 0 to 2"):
        rehearse(linear(), images, labels + 1, NoDefense(), Federation(clients=2))
    with pytest.raises(InputError, match="expected 1 to 12 clients"):
        rehearse(linear(), images, labels, NoDefense(), Federation(clients=13))
