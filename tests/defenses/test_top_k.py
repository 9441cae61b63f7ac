"""Deep Gradient Compression: counts, ties, and what waits from round to round."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ggl
from ggl.base.errors import InputError
from ggl.base.options import parameters_of, read_options
from ggl.defenses import Client, Composed, load_defense
from ggl.defenses.top_k import TopK
from ggl.gradients import GradientOracle, Mask

quick = settings(max_examples=40)
numbers = st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0, -3.0, 1e-3, 1e3]), min_size=1, max_size=40)
shares = st.integers(1, 100).map(lambda percent: percent / 100)
ORACLE = GradientOracle(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), backend="sequential")


def client(gradients, memory, round_=0):
    return Client(
        ORACLE,
        torch.zeros(1, 1, 2, 2),
        torch.zeros(1, dtype=torch.long),
        round=round_,
        rounds=100,
        memory=memory,
        computed=gradients,
    )


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def rounds(defense, gradients, memory=None):
    """Return what a client sends, round after round, of one parameter."""
    memory = {} if memory is None else memory
    return [
        defense.share(client({"w": tensor(g)}, memory, i), torch.Generator())["w"]
        for i, g in enumerate(gradients)
    ]


def flat(defense, values):
    return defense.protect({"w": tensor(values)}, torch.Generator())["w"]


@pytest.mark.parametrize(
    ("keep", "values", "expected"),
    [
        (0.5, [1.0, -4.0, 3.0, 2.0], [0.0, -4.0, 3.0, 0.0]),
        (0.5, [1.0, -1.0, 1.0, -1.0], [1.0, -1.0, 0.0, 0.0]),
        (0.3, [0.0, 2.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]),
        (0.01, [[1.0, 2.0], [-3.0, 3.0]], [[0.0, 0.0], [-3.0, 0.0]]),
        (0.26, [1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 3.0, 4.0]),
        (1.0, [1.0, 0.0, -2.0], [1.0, 0.0, -2.0]),
    ],
)
def test_by_hand(keep, values, expected):
    assert flat(TopK(keep), values).tolist() == expected


@quick
@given(shares, numbers)
def test_exactly_the_count_of_the_largest_is_sent(keep, values):
    """Against a sort by magnitude and then position, in whole percent."""
    count = max(1, -(-round(100 * keep) * len(values) // 100))
    order = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
    expected = [value if i in order[:count] else 0.0 for i, value in enumerate(values)]
    assert flat(TopK(keep), values).tolist() == expected


@pytest.mark.parametrize(("keep", "size", "count"), [(0.07, 100, 7), (0.29, 100, 29), (0.001, 1001, 2)])
def test_shares_that_floats_can_not_write_still_count_exactly(keep, size, count):
    assert (flat(TopK(keep), list(range(1, size + 1))) != 0).sum() == count


def test_each_parameter_sends_its_own_share():
    g = {"a": tensor([1.0, 2.0]), "b": tensor([100.0, 200.0, 300.0, 400.0])}
    sent = TopK(0.5).protect(g, torch.Generator())
    assert {name: value.tolist() for name, value in sent.items()} == {"a": [0, 2], "b": [0, 0, 300, 400]}


@quick
@given(shares, numbers, st.sampled_from([0.0, 0.5, 0.9]))
def test_the_first_round_is_the_plain_top_k(keep, values, momentum):
    defense = TopK(keep, momentum=momentum)
    assert torch.equal(rounds(defense, [values])[0], flat(defense, values))


def test_three_rounds_by_hand():
    """m = 0.5, one of three sent; sent entries leave both buffers.

    g = (4, 2, 1): u = v = g, sends 4, leaves u = v = (0, 2, 1).
    g = (1, 0, 1): u = (1, 1, 1.5), v = (1, 3, 2.5), sends 3, leaves u = (1, 0, 1.5), v = (1, 0, 2.5).
    g = (0, 1, -1): u = (0.5, 1, -0.25), v = (1.5, 1, 2.25), sends 2.25.
    """
    memory = {}
    sent = rounds(TopK(0.3, momentum=0.5), [[4, 2, 1], [1, 0, 1], [0, 1, -1]], memory)
    assert [values.tolist() for values in sent] == [[4, 0, 0], [0, 3, 0], [0, 0, 2.25]]
    left = {key: value["w"].tolist() for key, value in memory.items()}
    assert left == {
        "top-k:0.3,momentum=0.5 velocity": [0.5, 1.0, 0.0],
        "top-k:0.3,momentum=0.5 residual": [1.5, 1.0, 0.0],
    }


integers = st.lists(st.integers(-9, 9), min_size=5, max_size=5)


@quick
@given(shares, st.lists(integers, min_size=1, max_size=8))
def test_without_momentum_nothing_is_lost(keep, gradients):
    """What was sent and what waits is the sum of all gradients; exactly, since they are whole numbers."""
    memory, defense = {}, TopK(keep, momentum=0.0)
    sent = sum(rounds(defense, gradients, memory))
    assert torch.equal(sent + memory[f"{defense.name} residual"]["w"], tensor(gradients).sum(0))


@quick
@given(st.floats(0, 0.99), st.lists(integers, min_size=1, max_size=5))
def test_when_all_is_sent_nothing_waits_and_momentum_is_masked_away(momentum, gradients):
    memory = {}
    sent = rounds(TopK(1.0, momentum=momentum), gradients, memory)
    assert [values.tolist() for values in sent] == gradients
    assert not any(value["w"].any() for value in memory.values())


def test_an_unsent_coordinate_gathers_momentum():
    """(1 - m^t) / (1 - m) is the velocity after t equal gradients, and the residual their sum."""
    memory, m = {}, 0.9
    rounds(TopK(0.5, momentum=m), [[100.0, 1.0]] * 6, memory)
    velocity = [(1 - m**t) / (1 - m) for t in range(1, 7)]
    assert memory["top-k:0.5,momentum=0.9 velocity"]["w"][1].item() == pytest.approx(velocity[-1], rel=1e-12)
    assert memory["top-k:0.5,momentum=0.9 residual"]["w"][1].item() == pytest.approx(sum(velocity), rel=1e-12)


@pytest.mark.parametrize("keep", [0.4, 1.0])
def test_memory_and_input_share_no_storage_with_what_is_sent(keep):
    g, memory, defense = {"w": tensor([3.0, 1.0, 2.0])}, {}, TopK(keep)
    for i in range(2):
        sent = defense.share(client(g, memory, i), torch.Generator())
        before = {key: value["w"].clone() for key, value in memory.items()}
        sent["w"].add_(7)
        assert g["w"].tolist() == [3.0, 1.0, 2.0]
        assert all(torch.equal(memory[key]["w"], value) for key, value in before.items())
    places = {value["w"].data_ptr() for value in memory.values()}
    assert len(places | {g["w"].data_ptr(), sent["w"].data_ptr()}) == 4


def test_protect_keeps_nothing_and_leaves_its_input():
    g = {"w": tensor([3.0, 1.0])}
    TopK(0.5).protect(g, torch.Generator())["w"].add_(1)
    assert g["w"].tolist() == [3.0, 1.0]


def test_it_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    TopK(0.5).share(client({"w": tensor([1.0, 2.0])}, {}), generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_is_kept_in_every_round(dtype):
    memory = {}
    for i in range(2):
        g = {"w": torch.ones(2, 2, dtype=dtype)}
        sent = TopK(0.5).share(client(g, memory, i), torch.Generator())["w"]
        assert sent.dtype == dtype
        assert sent.shape == (2, 2)
    assert all(value["w"].dtype == dtype for value in memory.values())


def test_a_composition_sends_the_largest_of_what_came_before_and_remembers():
    """Clipped to 5 of 10: (3, 4), then the residual 3 with m = 0.5: u = 4.5, v = 7.5."""
    defense = Composed([load_defense("clip:5"), TopK(0.5, momentum=0.5)])
    sent = rounds(defense, [[6.0, 8.0], [6.0, 8.0]])
    torch.testing.assert_close(torch.stack(sent), tensor([[0.0, 4.0], [7.5, 0.0]]), rtol=1e-6, atol=0)


def test_the_victims_own_gradient_is_compressed():
    victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0)
    oracle = GradientOracle(victim, backend="layerwise")
    images, labels = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([3])
    defense = TopK(0.1)
    shared = defense.share(Client(oracle, images[:1], labels), torch.Generator())
    for name, g in oracle.observe(images[:1], labels).items():
        assert shared[name].count_nonzero() <= math.ceil(0.1 * g.numel())
        assert torch.equal(shared[name][shared[name] != 0], g[shared[name] != 0])
    view = defense.view(shared, "adaptive")
    expected, *others = (
        GradientOracle(victim, backend=backend).score(images[1:], labels, view)
        for backend in ("sequential", "vmap", "layerwise")
    )
    for found in others:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    assert oracle.score(images[:1], labels, view).item() < 1e-4 * expected.min()


@pytest.mark.parametrize("attacker", ["adaptive", "informed"])
def test_the_attacker_reads_the_mask_off_the_zeros(attacker):
    shared = TopK(0.5).protect({"w": tensor([1.0, 2.0, 3.0, 0.5])}, torch.Generator())
    (mask,) = TopK(0.5).view(shared, attacker).steps
    assert isinstance(mask, Mask)
    assert mask.keep["w"].tolist() == [False, True, True, False]
    assert TopK(0.5).view(shared, "naive").steps == ()


def test_a_sent_number_takes_eight_bytes_or_a_bit_map():
    assert TopK(0.01).size({"w": torch.eye(1, 1000)}) == 8
    assert TopK(0.5).size({"w": torch.arange(64) % 2}) == 32 * 4 + 64 / 8


@pytest.mark.parametrize(
    ("keep", "momentum", "message"),
    [(keep, 0.9, "a share to keep above 0 and at most 1") for keep in (0.0, -0.1, 1.5, math.nan, math.inf)]
    + [(0.1, momentum, "a momentum from 0 to below 1") for momentum in (1.0, -0.1, math.nan)],
)
def test_a_parameter_out_of_range_is_refused(keep, momentum, message):
    found = keep if momentum == 0.9 else momentum
    with pytest.raises(InputError) as error:
        TopK(keep, momentum=momentum)
    assert str(error.value) == f"top-k: expected {message}, found {found:g}"


@pytest.mark.parametrize(
    "defense", [TopK(0.01), TopK(1e-5, momentum=0.0), TopK(1 / 3, momentum=0.12345678901)]
)
def test_the_name_holds_the_options(defense):
    name, _, text = defense.name.partition(":")
    kinds = {key: p.annotation for key, p in parameters_of(name, TopK).items()}
    again = TopK(**read_options(name, text, kinds, ["keep"]))
    assert (name, again.name) == ("top-k", defense.name)
    assert (again.keep, again.momentum) == (defense.keep, defense.momentum)
