"""What a sweep's work costs on this machine, from a few generations of each distinct thing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ggl.attacks.head import head_alone
from ggl.attacks.inversion import invert
from ggl.attacks.latents import load_latents
from ggl.attacks.objectives import GradientMatch
from ggl.attacks.search import Search
from ggl.attacks.strategy_options import read_options
from ggl.attacks.timing import GENERATION_SECONDS, affordable_rate, mean_rate, modeled_rate
from ggl.audits.audit import audit
from ggl.audits.controls import choose_decoys, noise_gradient
from ggl.base.durations import clock_of
from ggl.base.random import stream, stream_seed
from ggl.benchmarks.sweeps.cells import SweepCell
from ggl.benchmarks.sweeps.components import Components
from ggl.benchmarks.sweeps.execute import SEARCHES
from ggl.datasets.picking import pick_private
from ggl.defenses import Client
from ggl.gradients import GradientOracle, Gradients
from ggl.gradients.sampled import sampled_layers
from ggl.optimizers import Strategy, load_group, load_strategy

__all__ = ["Calibration", "place_of"]

SHARES = 4
"""Gradients that an audit of one cell has clients share: the private one is checked first."""

PLAIN, WITH_GRADIENT = "random", "adam"
"""Strategies that cost next to nothing themselves."""

TINY = "random:population=4"
FEW = 64
"""Evaluations that are budget enough for them."""


@dataclass(frozen=True)
class _Setting:
    """One private image under one defense: what its searches need."""

    oracle: GradientOracle
    label: Tensor
    shared: Sequence[Gradients]
    seconds: float
    """Of one client's sharing."""


class Calibration:
    """Seconds of evaluations, strategies and packs, measured when they are first asked for.

    Args:
        components: of the cells.
        pack: how many cells are searched side by side at most.
        device: where victims and priors are.
    """

    def __init__(self, components: Components, pack: int, device: torch.device) -> None:
        self.components, self.pack, self.device = components, pack, device
        self.clock = clock_of(device)

    def passes(self, cell: SweepCell) -> int:
        """Return the passes through the victim that one evaluation of a cell takes."""
        return self.components.defense(cell).trial(cell.attacker).draws if self._samples(cell) else 1

    def grows(self, cell: SweepCell) -> bool:
        """Return whether a strategy's cost grows with what it was told, so that a rate is a least one."""
        return self._strategy(cell).initial is not None

    def evaluation(self, cell: SweepCell, reference: SweepCell) -> float:
        """Return the seconds of one evaluation of a cell, its strategy's time included.

        Args:
            cell: whose prior, victim, defense, attacker and strategy count.
            reference: one of the same prior, victim and data, under whose defense strategies are compared.
        """
        cheap = WITH_GRADIENT if self._strategy(cell).needs_gradient else PLAIN
        plain = self._rate(_under(cell, cell, cheap))
        if cell.strategy == cheap:
            return plain
        there = self._rate(_under(reference, cell, cell.strategy))
        overhead = there - self._rate(_under(reference, cell, cheap))
        return plain + max(overhead, -plain / 2)

    def fixed(self, cell: SweepCell, reference: SweepCell) -> tuple[float, float]:
        """Return the seconds of a pack, and of each cell in it, beside the evaluations."""
        least = _under(reference, reference, TINY)
        pack, each = self.components.once(("fixed", place_of(least)), lambda: self._fixed(least))
        more = self._setting(cell).seconds - self._setting(reference).seconds
        return pack, max(each + SHARES * more, 0.0)

    def ceiling(self, cell: SweepCell) -> float:
        """Return the seconds of one evaluation of a private image's own inversion."""
        return self.components.once(("ceiling", cell.prior, cell.data), lambda: self._ceiling(cell))

    def _strategy(self, cell: SweepCell) -> Strategy:
        dimension = self.components.prior(cell).latent_dim
        key = ("strategy", cell.strategy, dimension, cell.budget)
        return self.components.once(
            key,
            lambda: load_strategy(
                read_options(cell.strategy).searcher, latent_dim=dimension, budget=cell.budget, seed=0
            ),
        )

    def _samples(self, cell: SweepCell) -> bool:
        key = ("samples", *place_of(cell), cell.defense)
        return self.components.once(key, lambda: bool(sampled_layers(self._wrapped(cell))))

    def _wrapped(self, cell: SweepCell) -> nn.Module:
        victim = self.components.victim(cell)
        return self.components.defense(cell).wrap(victim, cell.victim_seed)

    def _image(self, cell: SweepCell) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the private images, their labels, and those of the data."""
        data = self.components.data(cell)
        rows = pick_private(data.labels, cell.images, cell.image_seed)
        return data.images[rows], data.labels[rows], data.images, data.labels

    def _setting(self, cell: SweepCell) -> _Setting:
        key = ("setting", *place_of(cell), cell.defense, cell.round)
        return self.components.once(key, lambda: self._share(cell))

    def _share(self, cell: SweepCell) -> _Setting:
        images, labels, pool, pool_labels = self._image(cell)
        image, label = images[:1], labels[:1]
        sibling = choose_decoys(image, label, pool, pool_labels, 0).siblings
        oracle = GradientOracle(
            self._wrapped(cell).to(self.device), backend=cell.backend, precision=cell.precision
        )
        clients = [
            Client(oracle, picture, label, round=cell.round, rounds=cell.rounds)
            for picture in (image, sibling)
        ]
        private, other = clients
        clients.append(other.after(noise_gradient(private.gradient(), stream(0, "calibration"))))
        defense = self.components.defense(cell)
        started = self.clock()
        shared = [defense.share(client, stream(0, "calibration", i)) for i, client in enumerate(clients)]
        return _Setting(oracle, label, shared, (self.clock() - started) / len(clients))

    def _rate(self, cell: SweepCell) -> float:
        """Return the seconds of one evaluation, of as many searches side by side as can be afforded."""
        key = ("rate", *place_of(cell), cell.defense, cell.attacker, cell.strategy, cell.budget)
        return self.components.once(key, lambda: self._measured(cell))

    def _measured(self, cell: SweepCell) -> float:
        strategy = self._strategy(cell)
        if strategy.initial is not None:
            return self._modeled(cell, strategy.initial, strategy.batch_size)
        return affordable_rate(
            lambda width: self._search(cell, width).run,
            self.clock,
            min(cell.images, self.pack),
            unit=SEARCHES,
        )

    def _modeled(self, cell: SweepCell, initial: int, size: int) -> float:
        """Return the mean over the budget, where all after the initial design costs what its start does."""
        plain = self._rate(_under(cell, cell, PLAIN))
        if initial + size > cell.budget:
            return plain
        modeled = modeled_rate(lambda told: self._search(cell, 1).run(told), self.clock, initial)
        return mean_rate(plain, modeled, initial / cell.budget)

    def _search(self, cell: SweepCell, width: int) -> Search:
        """Return searches, `width` of them, of three gradients in turn."""
        prior, defense, setting = (
            self.components.prior(cell),
            self.components.defense(cell),
            self._setting(cell),
        )
        views = [defense.view(g, cell.attacker, setting.oracle.model) for g in setting.shared]
        options = read_options(cell.strategy)
        if options.is_head:
            views = [head_alone(view, setting.oracle, prior.image_shape) for view in views]
        objective = GradientMatch(
            setting.oracle,
            [views[k % len(views)] for k in range(width)],
            cell.distance,
            defense.trial(cell.attacker),
        )
        return Search(
            prior,
            setting.label.expand(width, 1),
            objective,
            load_group(
                options.searcher,
                latent_dim=prior.latent_dim,
                budget=cell.budget,
                seeds=[stream_seed(0, k) for k in range(width)],
                device=self.device,
            ),
            budget=cell.budget,
            latents=load_latents(cell.latents or prior.latents),
            device=self.device,
        )

    def _fixed(self, cell: SweepCell) -> tuple[float, float]:
        """Return the seconds of an audit, and of each of its cells, from audits of one and of more images."""
        images, labels, pool, pool_labels = self._image(cell)
        counts = sorted({1, min(len(images), 4)})
        self._audited(cell, images[:1], labels[:1], pool, pool_labels)
        seconds = [self._audited(cell, images[:n], labels[:n], pool, pool_labels) for n in counts]
        if len(counts) == 1:
            return 0.0, seconds[0]
        each = max(seconds[1] - seconds[0], 0.0) / (counts[1] - counts[0])
        return max(seconds[0] - each, 0.0), each

    def _audited(
        self, cell: SweepCell, images: Tensor, labels: Tensor, pool: Tensor, pool_labels: Tensor
    ) -> float:
        started = self.clock()
        audit(
            self.components.victim(cell).to(self.device),
            images,
            labels,
            prior=self.components.prior(cell),
            defenses=[cell.defense],
            strategies=[TINY],
            attackers=["naive"],
            budget=4,
            ceiling=images,
            decoys=(pool, pool_labels),
            backend=cell.backend,
            precision=cell.precision,
            round=cell.round,
            rounds=cell.rounds,
        )
        return self.clock() - started

    def _ceiling(self, cell: SweepCell) -> float:
        images, labels, *_ = self._image(cell)

        def inverted(n: int, budget: int) -> float:
            started = self.clock()
            prior = self.components.prior(cell)
            invert(images[:n], labels[:n], prior=prior, budget=budget, device=self.device)
            return (self.clock() - started) / (n * budget)

        narrow = inverted(1, 8)
        affordable = int(GENERATION_SECONDS / (narrow * 16))
        return narrow if affordable < 2 else inverted(min(affordable, len(images)), 16)


def _under(place: SweepCell, cell: SweepCell, strategy: str) -> SweepCell:
    """Return `place` with a strategy and a cell's budget; what does not matter to its time is the same."""
    budget = FEW if strategy in (PLAIN, WITH_GRADIENT, TINY) else cell.budget
    return replace(place, strategy=strategy, budget=budget, image=0, seed=0, latents=None)


def place_of(cell: SweepCell) -> tuple[object, ...]:
    """Return what cells share among whom defenses and strategies are compared."""
    return cell.prior, cell.victim, cell.victim_weights, cell.data
