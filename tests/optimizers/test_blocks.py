"""Block CMA-ES: CMA-ES where there is one block, its composition where there are more, and what it gains."""

import statistics
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ggl.base.errors import CheckpointError, InputError, UnknownNameError
from ggl.base.random import stream
from ggl.base.weights import load_tensors, save_tensors
from ggl.optimizers import SideBySide, load_group, load_strategy
from ggl.optimizers.cmaes.blocks import BlockCMAES, BlockSearches
from ggl.optimizers.cmaes.constants import default_population
from ggl.optimizers.cmaes.strategies import CMAES
from ggl.optimizers.residuals import Residuals

BLOCKS, DIM = 4, 6
NAMES = ["block-cma-es", "block-cma-es:turns=1"]
each = pytest.mark.parametrize("name", NAMES)


def load(name="block-cma-es", *, blocks=BLOCKS, dim=DIM, seed=0, budget=1000):
    return load_strategy(name, latent_dim=blocks * dim, budget=budget, seed=seed, blocks=blocks)


def group(name="block-cma-es", *, seeds=(3, 4, 5), blocks=BLOCKS, dim=DIM):
    return load_group(name, latent_dim=blocks * dim, budget=1000, seeds=seeds, blocks=blocks)


@cache
def axes(block, dim):
    normal = torch.randn(dim, dim, generator=stream(block, "axes"), dtype=torch.float64)
    return torch.linalg.qr(normal).Q


def blocks_of(z, blocks=BLOCKS):
    return z.view(len(z), blocks, -1)


def ellipsoids(z, blocks=BLOCKS):
    """Sum over the blocks of an ellipsoid of condition 1e3, each block's axes its own; 0 at (1, ..., 1)."""
    parts = blocks_of(z, blocks) - 1
    scales = torch.logspace(0, 3, parts.shape[2], dtype=torch.float64)
    turned = [(parts[:, b] @ axes(b, parts.shape[2])).square() @ scales for b in range(blocks)]
    return torch.stack(turned).sum(0)


def advance(searches, generations, objective=ellipsoids, chosen=None):
    rows = []
    for _ in range(generations):
        rows.append(searches.ask(range(len(searches)) if chosen is None else chosen))
        searches.tell(rows[-1], [objective(z) for z in rows[-1]])
    return rows


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def step(strategy, objective=ellipsoids):
    z = strategy.ask()
    strategy.tell(z, objective(z))
    return z


@each
@pytest.mark.parametrize("options", ["", "sigma0=0.3,population=9"])
def test_one_block_is_cma_es_bit_for_bit(name, options):
    own = load_strategy(
        ":".join(filter(None, ("cma-es", options))), latent_dim=20, budget=1000, seed=7, blocks=1
    )
    blocked = load_strategy(
        f"{name}{',' if ':' in name else ':'}{options}" if options else name,
        latent_dim=20,
        budget=1000,
        seed=7,
    )
    for _ in range(40):
        assert torch.equal(step(own, lambda z: ellipsoids(z, 1)), step(blocked, lambda z: ellipsoids(z, 1)))
        assert own.stopped == blocked.stopped


def test_a_candidate_is_its_blocks_candidates_side_by_side_all_told_the_joint_loss():
    """By single searches of CMA-ES, one a block, written out."""
    joint = load(seed=2)
    population = default_population(BLOCKS * DIM)
    seeds = joint._searches.searches._random
    assert len(seeds) == BLOCKS
    parts = [CMAES(DIM, budget=1000, seed=0, population=population) for _ in range(BLOCKS)]
    for part, random in zip(parts, seeds, strict=True):
        part._searches._random[0].set_state(random.get_state())
    for _ in range(15):
        z = torch.cat([part.ask() for part in parts], dim=1)
        loss = ellipsoids(z)
        assert torch.equal(joint.ask(), z)
        joint.tell(z, loss)
        for k, part in enumerate(parts):
            part.tell(z[:, k * DIM : (k + 1) * DIM], loss)


def test_blocks_draw_from_streams_of_their_own():
    z = blocks_of(load().ask())
    for k in range(BLOCKS):
        for other in range(k):
            assert not torch.isclose(z[:, k], z[:, other]).any()


@pytest.mark.parametrize(("blocks", "dim", "population"), [(1, 64, 16), (4, 64, 20), (16, 64, 24), (4, 1, 8)])
def test_the_default_population_is_that_of_the_whole_batch(blocks, dim, population):
    """4 + floor(3 ln(B d))."""
    assert load(blocks=blocks, dim=dim).batch_size == population


def test_memory_grows_with_the_blocks_not_with_their_square():
    def size(blocks):
        return sum(t.numel() for t in load(blocks=blocks, dim=32).state_dict().values() if t.dim() == 3)

    assert size(8) == 8 * size(1)


def test_in_turns_one_block_varies_and_the_others_are_the_best_so_far():
    strategy = load("block-cma-es:turns=1")
    best, least = torch.zeros(BLOCKS, DIM, dtype=torch.float64), torch.inf
    for generation in range(3 * BLOCKS):
        z = blocks_of(strategy.ask())
        turn = generation % BLOCKS
        for k in range(BLOCKS):
            assert (z[:, k] == best[k]).all() == (k != turn)
        loss = ellipsoids(z.flatten(1))
        strategy.tell(z.flatten(1), loss)
        if loss.min() < least:
            least, best = loss.min(), z[loss.argmin()]


def test_in_turns_a_loss_that_is_not_finite_is_never_the_best():
    strategy = load("block-cma-es:turns=1")
    z = strategy.ask()
    strategy.tell(z, torch.full((len(z),), -torch.inf))
    assert not blocks_of(strategy.ask())[:, [0, 2, 3]].any()


def test_in_turns_blocks_that_have_stopped_are_passed_over():
    strategy = load("block-cma-es:turns=1")
    stopped = strategy._searches.searches.stopping.stopped
    stopped[1] = stopped[2] = True
    varied = []
    for _ in range(4):
        z = blocks_of(step(strategy))
        varied.append([k for k in range(BLOCKS) if len(z[:, k].unique(dim=0)) > 1])
    assert varied == [[0], [3], [0], [3]]


@each
def test_a_search_has_stopped_when_all_its_blocks_have(name):
    searches = group(name)
    stopped = searches.searches.stopping.stopped
    population = searches.population
    for block in range(BLOCKS):
        assert searches.sizes() == [population] * 3
        stopped[BLOCKS + block] = True
    assert searches.sizes() == [population, 0, population]
    rows = searches.ask([0, 2])
    assert [z.shape for z in rows] == [(population, BLOCKS * DIM)] * 2


@each
def test_a_search_that_found_the_minimum_stops_and_says_so_after_loading(name):
    strategy = load(name, blocks=2, dim=1)
    spent = 0
    while not strategy.stopped and spent < 20_000:
        spent += len(step(strategy, lambda z: (z - 1).square().sum(1)))
    assert strategy.stopped
    resumed = load(name, blocks=2, dim=1)
    resumed.load_state_dict(strategy.state_dict())
    assert resumed.stopped
    assert (strategy.ask() - 1).square().sum(1).min() < 1e-10


@each
@pytest.mark.parametrize("generations", [0, 1, 6])
def test_a_saved_group_of_blocks_continues_bit_for_bit(name, generations, tmp_path):
    searches, resumed = group(name), group(name)
    advance(searches, generations)
    save_tensors(tmp_path / "state.safetensors", searches.state_dict())
    resumed.load_state_dict(load_tensors(tmp_path / "state.safetensors"))
    state = searches.state_dict()
    before = {key: tensor.clone() for key, tensor in state.items()}
    assert_same(advance(resumed, 5), advance(searches, 5))
    assert all(torch.equal(state[key], before[key]) for key in before)


@each
def test_a_search_of_blocks_in_a_group_is_what_it_is_alone(name):
    together = group(name)
    assert isinstance(together, BlockSearches)
    alone = SideBySide([load(name, seed=seed) for seed in (3, 4, 5)])
    assert_same(advance(together, 9), advance(alone, 9))


@each
def test_searches_of_blocks_may_be_asked_in_part(name):
    together, alone = group(name), group(name, seeds=(4,))
    for chosen in ([0, 1, 2], [0, 2], [1], [0], [1, 2]):
        rows = advance(together, 3, chosen=chosen)
        if 1 in chosen:
            place = chosen.index(1)
            assert_same([[z[place]] for z in rows], advance(alone, 3))


@each
def test_the_order_of_telling_does_not_matter_to_blocks(name):
    straight, shuffled = load(name), load(name)
    for generation in range(6):
        z = straight.ask()
        order = torch.randperm(len(z), generator=torch.Generator().manual_seed(generation))
        straight.tell(z, ellipsoids(z))
        shuffled.tell(shuffled.ask()[order], ellipsoids(z)[order])
    assert torch.equal(straight.ask(), shuffled.ask())


@each
def test_a_longer_budget_of_blocks_begins_as_a_shorter_one(name):
    short, long = load(name, budget=50), load(name, budget=50_000)
    assert BlockCMAES.anytime
    assert_same([[step(short)] for _ in range(5)], [[step(long)] for _ in range(5)])


@settings(max_examples=15)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from(NAMES), st.integers(0, 2**40))
def test_any_number_of_blocks_is_searched(blocks, dim, name, seed):
    strategy = load(name, blocks=blocks, dim=dim, seed=seed)
    for _ in range(blocks + 1):
        z = step(strategy, lambda z: (z - 1).square().sum(1))
        assert z.shape == (strategy.batch_size, blocks * dim)
        assert z.isfinite().all()
        assert len(z.unique(dim=0)) == len(z)


def median_of_best(name, evaluations):
    found = []
    for seed in range(3):
        strategy, best = load(name, seed=seed), torch.inf
        for _ in range(evaluations // strategy.batch_size):
            z = strategy.ask()
            loss = ellipsoids(z)
            strategy.tell(z, loss)
            best = min(best, loss.min().item())
        found.append(best)
    return statistics.median(found)


@pytest.mark.slow("long searches, compared")
def test_blocks_are_ahead_of_one_covariance_and_of_a_diagonal_where_the_objective_is_a_sum():
    blocked = median_of_best("block-cma-es", 2000)
    assert blocked < median_of_best("cma-es", 2000) / 2
    assert blocked < median_of_best("sep-cma-es", 2000) / 2


@pytest.mark.parametrize(
    ("settings_of", "reason"),
    [
        ({"blocks": 0, "latent_dim": 12}, "expected blocks that divide the 12 dimensions, found 0"),
        ({"blocks": 5, "latent_dim": 12}, "expected blocks that divide the 12 dimensions, found 5"),
        ({"blocks": 2, "latent_dim": 0}, "latent dimension of at least 1, found 0"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(settings_of, reason):
    with pytest.raises(InputError, match=reason) as error:
        load_strategy("block-cma-es", budget=100, seed=0, **settings_of)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("specification", "reason"),
    [
        ("block-cma-es:blocks=2", "option of strategy block-cma-es is named 'blocks'"),
        ("cma-es:blocks=2", "option of strategy cma-es is named 'blocks'"),
    ],
)
def test_the_number_of_blocks_is_no_option(specification, reason):
    with pytest.raises(UnknownNameError, match=reason):
        load_strategy(specification, latent_dim=12, budget=100, seed=0, blocks=2)


def test_a_strategy_that_asks_for_no_blocks_is_told_none():
    z = load_strategy("cma-es", latent_dim=12, budget=100, seed=0, blocks=2).ask()
    assert torch.equal(z, load_strategy("cma-es", latent_dim=12, budget=100, seed=0).ask())


def test_a_state_of_other_blocks_is_refused():
    with pytest.raises(CheckpointError, match="resume it with the settings it was saved with"):
        group(blocks=2, dim=12).load_state_dict(group().state_dict())


def test_a_group_of_blocks_is_asked_and_told_in_turn():
    searches = group()
    with pytest.raises(InputError, match="told before asked"):
        searches.tell([], [])
    rows = searches.ask([0, 2])
    with pytest.raises(InputError, match="asked twice"):
        searches.ask([0, 2])
    with pytest.raises(InputError, match="saved between generations"):
        searches.state_dict()
    losses = [ellipsoids(z) for z in rows]
    for bad in (rows[:1], [rows[0], rows[1][1:]]):
        with pytest.raises(InputError, match="return what was asked"):
            searches.tell(bad, losses)
    with pytest.raises(InputError, match="return what was asked"):
        searches.tell(rows, losses[:1])
    searches.tell(rows, losses)


MAPS = torch.randn(BLOCKS, 30, DIM // BLOCKS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
GOAL = torch.einsum("pmd,pd->m", MAPS, torch.ones(BLOCKS, DIM // BLOCKS, dtype=torch.float64))


def advance_by_residuals(searches, generations):
    """Tell searches what a sum of linear maps comes to; return the least loss of each search."""
    least = [float("inf")] * len(searches)
    for _ in range(generations):
        chosen = [k for k, size in enumerate(searches.sizes()) if size]
        z = searches.ask(chosen)
        values = [torch.einsum("pmd,npd->npm", MAPS, rows.unflatten(1, (BLOCKS, -1))) for rows in z]
        losses = [(v.sum(1) - GOAL).square().sum(1) for v in values]
        searches.tell(z, losses, None, [Residuals(v, GOAL, unit=False) for v in values])
        for k, loss in zip(chosen, losses, strict=True):
            least[k] = min(least[k], float(loss.min()))
    return least


def test_recombined_blocks_are_told_losses_of_their_own_and_are_ahead():
    plain, told = (group(f"block-cma-es{options}") for options in ("", ":recombine=1"))
    assert told.needs_residuals
    assert told.sizes() == [plain.sizes()[0] + 1] * 3
    before = advance_by_residuals(told, 1)
    after = advance_by_residuals(told, 40)
    assert max(after) < 0.05 * min(before)
    assert max(after) < 0.5 * min(advance_by_residuals(plain, 40))


def test_the_best_blocks_are_a_candidate_of_the_next_generation_and_never_worse():
    searches, last = group("block-cma-es:recombine=1"), [float("inf")] * 3
    for _ in range(10):
        z = searches.ask([0, 1, 2])
        values = [torch.einsum("pmd,npd->npm", MAPS, rows.unflatten(1, (BLOCKS, -1))) for rows in z]
        losses = [(v.sum(1) - GOAL).square().sum(1) for v in values]
        for rows, best, loss, before in zip(z, searches.best, losses, last, strict=True):
            assert torch.equal(rows[-1], best.flatten())
            assert loss[-1] <= before * (1 + 1e-4)  # products of float32
        last = [float(loss.min()) for loss in losses]
        searches.tell(z, losses, None, [Residuals(v, GOAL, unit=False) for v in values])


def test_a_recombining_search_continues_bit_for_bit_and_alone_as_in_a_group():
    whole, resumed = group("block-cma-es:recombine=1"), group("block-cma-es:recombine=1")
    advance_by_residuals(whole, 3)
    resumed.load_state_dict(whole.state_dict())
    assert advance_by_residuals(whole, 3) == advance_by_residuals(resumed, 3)


def test_one_block_has_nothing_to_recombine():
    assert not load("block-cma-es:recombine=1", blocks=1).needs_residuals


def test_recombination_needs_every_images_own_residuals_and_no_turns():
    searches = group("block-cma-es:recombine=1", seeds=[0])
    z = searches.ask([0])
    joint = Residuals(z[0][:, None], torch.ones(z[0].shape[1]), unit=False)
    with pytest.raises(InputError, match=r"^block-cma-es: recombine expects every image's own residuals"):
        searches.tell(z, [z[0].square().sum(1)], None, [joint])
    with pytest.raises(InputError, match=r"^block-cma-es: expected turns or recombine, found both"):
        load("block-cma-es:recombine=1,turns=1")
