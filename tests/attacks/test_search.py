"""The search loop: its budget, its best so far, its checkpoints."""

import pytest
import torch

from ggl.attacks.checkpoints import fingerprint
from ggl.attacks.course import SearchResult, courses
from ggl.attacks.latents import load_latents
from ggl.attacks.search import Search
from ggl.base.errors import CheckpointError, GradientError, InputError
from ggl.base.weights import load_tensors_and_metadata, save_tensors
from ggl.generators import Prior
from ggl.optimizers import load_group, load_strategy, strategies

DIM = 6
# The loop's side of the contract; tests/optimizers holds every strategy to its own.
STRATEGIES = ["cma-es", "sep-cma-es", "pycma", "random", "adam"]
each_strategy = pytest.mark.parametrize("name", STRATEGIES)
every_strategy = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow("fits Gaussian processes")] if name == "bo" else [])
        for name in strategies.names()
    ],
)


class StoppedError(Exception):
    pass


class Pixels(Prior):
    """An image is the sigmoid of its latent."""

    name, licence, latent_dim, image_shape = "pixels", "MIT", DIM, (1, 2, 3)

    def decode(self, z, labels=None):
        return z.sigmoid().unflatten(1, self.image_shape)


class Distance:
    """Squared distance to one image a search; remembers how many candidates it saw in every call."""

    def __init__(self, searches=1):
        self.wanted = torch.linspace(0.2, 0.8, searches)
        self.calls = []

    def __call__(self, images, labels, chosen, counts):
        self.calls.append(len(images))
        wanted = self.wanted[list(chosen)].repeat_interleave(torch.tensor(counts))
        return (images.flatten(1) - wanted[:, None]).square().sum(1)


class Residual(Distance):
    """The same, with what is squared."""

    unit, groups = False, ()

    def __init__(self, searches=1, batch=1):
        super().__init__(searches)
        self.targets = self.wanted[:, None].expand(-1, batch * DIM)

    def measure(self, images, labels, chosen, counts):
        return self(images, labels, chosen, counts), images.flatten(1)[:, None]


def search(name="cma-es", objective=None, budget=60, seeds=(0,), batch=1, latents="shell:0.1", **options):
    return Search(
        Pixels(),
        torch.zeros(len(seeds), batch, dtype=torch.int64),
        objective or Residual(len(seeds), batch),
        load_group(name, latent_dim=batch * DIM, budget=budget, seeds=seeds),
        budget=budget,
        latents=load_latents(latents),
        device=torch.device("cpu"),
        **options,
    )


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.latents, b.latents)
        assert (a.loss, a.history) == (b.loss, b.history)
        assert (a.evaluations, a.backward_passes) == (b.evaluations, b.backward_passes)
        for one, other in zip(a.milestones, b.milestones, strict=True):
            assert (one.evaluations, one.loss) == (other.evaluations, other.loss)
            assert torch.equal(one.latents, other.latents)


def stop_after(generations):
    """Return a progress callback that raises after so many generations."""
    calls = []

    def progress(*arguments):
        calls.append(arguments)
        if len(calls) == generations:
            raise StoppedError

    return progress


@pytest.fixture(autouse=True)
def checkpoint_always(monkeypatch):
    monkeypatch.setattr("ggl.attacks.search.CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr("ggl.attacks.search.SAVING_SHARE", 0)


@every_strategy
def test_every_strategy_is_searched_and_resumed_within_the_budget(name, tmp_path):
    path, budget = tmp_path / "search.safetensors", 105
    expected = search(name, seeds=(0, 1), budget=budget).run()
    with pytest.raises(StoppedError):
        search(name, seeds=(0, 1), budget=budget, checkpoint=path).run(stop_after(1))
    objective = Residual(2)
    resumed = search(name, objective, seeds=(0, 1), budget=budget, checkpoint=path)
    before = sum(best.evaluations for best in resumed.best)
    assert_same(resumed.run(), expected)
    assert all(result.evaluations <= budget for result in expected)
    assert before + sum(objective.calls) == 2 * expected[0].evaluations + 2


@each_strategy
@pytest.mark.parametrize("extra", [0, 1, -1])
def test_the_budget_is_spent_in_whole_generations_and_never_overrun(name, extra):
    """The winner's own re-evaluation comes on top: one candidate in one more call."""
    size = load_strategy(name, latent_dim=DIM, budget=100, seed=0).batch_size
    objective, budget = Distance(), 3 * size + extra
    searched = search(name, objective, budget)
    (result,) = searched.run()
    *generations, again = objective.calls
    assert again == 1
    assert result.evaluations == sum(generations) <= budget
    assert searched.group.sizes()[0] > budget - result.evaluations or searched.group.sizes() == [0]
    assert result.backward_passes == (result.evaluations if searched.group.needs_gradient else 0)


@each_strategy
def test_a_budget_of_one_generation_is_enough(name):
    size = load_strategy(name, latent_dim=DIM, budget=100, seed=0).batch_size
    (result,) = search(name, budget=size).run()
    assert result.history == [(size, pytest.approx(result.loss, rel=1e-5))]


@each_strategy
def test_a_budget_below_one_generation_is_refused(name):
    size = load_strategy(name, latent_dim=DIM, budget=100, seed=0).batch_size
    with pytest.raises(InputError, match=f"below one generation of {size}; give at least {size}"):
        search(name, budget=size - 1)


@each_strategy
def test_the_history_never_rises_and_ends_at_the_result(name):
    (result,) = search(name, budget=120).run()
    evaluations, losses = zip(*result.history, strict=True)
    assert list(losses) == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(result.loss, rel=1e-5)
    assert list(evaluations) == sorted(set(evaluations))
    assert evaluations[-1] == result.evaluations
    assert losses[-1] < losses[0]


@each_strategy
def test_the_result_is_the_best_candidate_that_was_asked(name):
    objective, seen = Distance(), []

    def remembering(images, *rest):
        losses = objective(images, *rest)
        seen.append((losses.detach(), images.detach()))
        return losses

    (result,) = search(name, remembering, latents="free").run()
    losses, images = (torch.cat(parts) for parts in zip(*seen[:-1], strict=True))
    torch.testing.assert_close(result.images[0], images[losses.argmin(), 0])
    assert result.loss == pytest.approx(losses.min().item(), rel=1e-5)


def test_a_search_may_be_looked_at_on_its_way():
    whole, parts = search(budget=60), search(budget=60)
    (halfway,) = parts.run(until=30)
    assert halfway.evaluations == 27
    assert_same(parts.run(), whole.run())
    with pytest.raises(InputError, match="below one generation"):
        search(budget=60).run(until=3)


def test_a_checkpoint_of_another_strategy_is_refused(tmp_path):
    path = tmp_path / "search.safetensors"
    with pytest.raises(StoppedError):
        search("cma-es", checkpoint=path).run(stop_after(2))
    for name in ("sep-cma-es", "cma-es:population=20", "adam", "pycma"):
        with pytest.raises(CheckpointError):
            search(name, checkpoint=path)


def test_the_penalty_enters_the_loss():
    free, penalized = (search(latents=rule).run()[0] for rule in ("free", "shell:0.5"))
    prior, objective = Pixels(), Distance()
    labels = torch.zeros(1, 1, dtype=torch.int64)
    expected = objective(penalized.images[None], labels, [0], [1]) + 0.5 * prior.penalty(penalized.latents)
    assert penalized.loss == pytest.approx(expected.item(), rel=1e-5)
    assert free.loss == pytest.approx(objective(free.images[None], labels, [0], [1]).item(), rel=1e-5)


def test_images_are_the_latents_decoded():
    (result,) = search(batch=2).run()
    assert result.images.shape == (2, 1, 2, 3)
    assert torch.equal(result.images, Pixels().decode(result.latents))


@each_strategy
def test_searches_side_by_side_equal_single_ones(name):
    """To 1e-6: the CPU may round a batch's rows otherwise than one row's."""
    together = search(name, seeds=(0, 1, 2)).run()
    for k in range(3):
        objective = Distance(3)
        objective.wanted = objective.wanted[k : k + 1]
        (alone,) = search(name, objective, seeds=(k,)).run()
        torch.testing.assert_close(together[k].images, alone.images, rtol=0, atol=1e-6)
        assert together[k].loss == pytest.approx(alone.loss, rel=1e-5)
        assert together[k].evaluations == alone.evaluations


def test_chunks_change_nothing_but_the_last_digits():
    whole, parts = search(seeds=(0, 1)), search(seeds=(0, 1))
    parts.chunks.size = 3
    for found, expected in zip(parts.run(), whole.run(), strict=True):
        assert found.evaluations == expected.evaluations
        losses = [[loss for _, loss in result.history] for result in (found, expected)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert max(parts.objective.calls) == 3


@pytest.mark.parametrize(("room", "together"), [(1, 1), (2 * 16 * DIM, 2), (2**28, 3)])
def test_residuals_of_few_searches_are_held_at_once(room, together, monkeypatch):
    """A first generation is sixteen candidates of DIM residuals each; searches do not meet."""
    expected = search("gauss-newton", seeds=(0, 1, 2)).run()
    monkeypatch.setattr("ggl.attacks.search.TOLD_AT_ONCE", room)
    parted = search("gauss-newton", seeds=(0, 1, 2))
    for found, known in zip(parted.run(), expected, strict=True):
        assert found.evaluations == known.evaluations
        assert found.loss == pytest.approx(known.loss, abs=1e-4)
    assert max(parted.objective.calls) == 16 * together


def test_losses_that_are_not_finite_never_win():
    objective = Distance()

    def broken(images, *rest):
        losses = objective(images, *rest)
        losses[losses.argmin()] = torch.nan
        return losses if len(images) > 1 else objective(images, *rest)

    (result,) = search(objective=broken).run()
    assert all(loss == loss and loss < torch.inf for _, loss in result.history)


@each_strategy
def test_a_search_without_any_finite_loss_is_an_error(name):
    def hopeless(images, *rest):
        return images.flatten(1).sum(1) * torch.nan

    with pytest.raises(GradientError, match="no candidate of a search had a finite loss"):
        search(name, hopeless).run()


def test_progress_hears_of_every_generation():
    heard = []
    (first, _) = search(seeds=(0, 1), budget=30).run(lambda *arguments: heard.append(arguments))
    size = first.history[0][0]
    assert [done for done, _, _ in heard] == [2 * size * (i + 1) for i in range(30 // size)]
    assert {planned for _, planned, _ in heard} == {2 * size * (30 // size)}
    assert [loss for _, _, loss in heard] == sorted((loss for _, _, loss in heard), reverse=True)


@each_strategy
def test_milestones_lie_at_halvings_of_the_budget(name):
    budget = 1000
    (result,) = search(name, budget=budget, latents="free").run()
    history = dict(result.history)
    ends = [done for done, _ in result.history]
    expected = {min(end for end in ends if end >= budget >> k) for k in range(1, 8)} | {ends[-1]}
    assert [m.evaluations for m in result.milestones if m.evaluations < ends[-1]] == sorted(expected)[:-1]
    assert [m.loss for m in result.milestones] == [history[m.evaluations] for m in result.milestones]
    seconds = [m.seconds for m in result.milestones]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


def test_a_milestone_holds_the_latents_that_are_decoded():
    (result,) = search(seeds=(3,), budget=64, batch=2, latents="tanh").run()
    last = result.milestones[-1]
    assert last.latents.shape == (2, DIM)
    assert torch.equal(last.latents, result.latents)
    assert torch.equal(Pixels().decode(last.latents), result.images)
    assert last.loss == pytest.approx(result.loss, rel=1e-5)


@each_strategy
@pytest.mark.parametrize("generations", [1, 2, 5])
def test_a_stopped_search_resumes_bit_for_bit(name, tmp_path, generations):
    path = tmp_path / "new folder" / "search.ckpt"
    expected = search(name, seeds=(0, 1), budget=130).run()
    with pytest.raises(StoppedError):
        search(name, seeds=(0, 1), budget=130, checkpoint=path).run(stop_after(generations))
    resumed = search(name, seeds=(0, 1), budget=130, checkpoint=path)
    assert len(resumed.best[1].history) == generations
    assert_same(resumed.run(), expected)


def test_a_search_stopped_twice_resumes_bit_for_bit(tmp_path):
    path = tmp_path / "search.safetensors"
    for generations in (1, 3):
        with pytest.raises(StoppedError):
            search(checkpoint=path).run(stop_after(generations))
    assert len(search(checkpoint=path).best[0].history) == 4
    assert_same(search(checkpoint=path).run(), search().run())


def test_a_finished_search_is_not_run_again(tmp_path):
    path, objective = tmp_path / "search.safetensors", Distance()
    expected = search(checkpoint=path).run()
    assert_same(search(objective=objective, checkpoint=path).run(), expected)
    assert objective.calls == [1]


def test_a_finished_search_keeps_what_it_found_alone(tmp_path):
    path = tmp_path / "search.safetensors"

    def kept():
        return {name for name in load_tensors_and_metadata(path)[0] if name.startswith("strategy.")}

    with pytest.raises(StoppedError):
        search(checkpoint=path).run(stop_after(2))
    assert kept()
    search(checkpoint=path).run()
    assert not kept()


def test_a_search_that_goes_on_later_keeps_its_strategy(tmp_path):
    path = tmp_path / "search.safetensors"
    search(checkpoint=path, budget=128).run(until=64)
    assert_same(search(checkpoint=path, budget=128).run(), search(budget=128).run())


def test_a_checkpoint_is_not_written_at_every_generation(tmp_path, monkeypatch):
    monkeypatch.setattr("ggl.attacks.search.CHECKPOINT_SECONDS", 60)
    path = tmp_path / "search.safetensors"
    with pytest.raises(StoppedError):
        search(checkpoint=path).run(stop_after(3))
    assert not path.exists()
    search(checkpoint=path).run()
    assert path.exists()


def test_a_checkpoint_of_another_search_is_refused(tmp_path):
    path = tmp_path / "search.safetensors"
    search(checkpoint=path, identity="one").run()
    with pytest.raises(CheckpointError, match="found one of other settings"):
        search(checkpoint=path, identity="two")


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff" * 500])
def test_a_damaged_checkpoint_is_refused_and_left(tmp_path, content):
    path = tmp_path / "search.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="delete it to start anew"):
        search(checkpoint=path)
    assert path.read_bytes() == content


def test_a_checkpoint_cut_short_is_refused(tmp_path):
    path = tmp_path / "search.safetensors"
    search(checkpoint=path).run()
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            search(checkpoint=path)


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path):
    path = tmp_path / "search.safetensors"
    search(checkpoint=path).run()
    tensors, metadata = load_tensors_and_metadata(path)
    for name in tensors:
        save_tensors(path, {key: value for key, value in tensors.items() if key != name}, metadata)
        with pytest.raises(CheckpointError):
            search(checkpoint=path)


def test_a_fingerprint_sees_every_setting_and_tensor():
    ones = torch.ones(2, 2)
    prints = {
        fingerprint({"a": 1, "b": 2}, [ones]),
        fingerprint({"a": 1, "b": 3}, [ones]),
        fingerprint({"a": 1}, [ones]),
        fingerprint({"a": 1, "b": 2}, [2 * ones]),
        fingerprint({"a": 1, "b": 2}, [ones, ones]),
    }
    assert len(prints) == 5
    assert fingerprint({"b": 2, "a": 1}, [ones.clone()]) in prints


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool])
def test_a_fingerprint_takes_every_dtype(dtype):
    zero, one = torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype)
    assert fingerprint({}, [zero]) != fingerprint({}, [one])


def test_searches_whose_generations_differ_have_one_course():
    made = [
        SearchResult(torch.empty(0), torch.empty(0), torch.empty(0), 0.0, history, 0, 0)
        for history in ([(4, 3.0), (8, 1.0)], [(6, 2.0), (8, 2.0), (12, 0.5)])
    ]
    evaluations, losses = courses(made)
    assert evaluations.tolist() == [4, 6, 8, 12]
    assert losses.tolist() == [[3.0, 3.0, 1.0, 1.0], [float("inf"), 2.0, 2.0, 0.5]]
