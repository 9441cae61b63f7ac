"""CMA-ES with a block-diagonal covariance, for batches: one search an image, composed into candidates."""

from collections.abc import Sequence
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.random import stream_seed
from ggl.optimizers.base import State, check_state, part_of
from ggl.optimizers.cmaes.constants import default_population
from ggl.optimizers.cmaes.searches import BatchedCMAES
from ggl.optimizers.group import Group, Rows, SingleSearch
from ggl.optimizers.least_squares.recombination import beside_others, recombined
from ggl.optimizers.least_squares.record import Record
from ggl.optimizers.residuals import Residuals

__all__ = ["BlockCMAES", "BlockSearches"]


class BlockSearches(Group):
    """K searches of B blocks each, over K · B searches of CMA-ES that advance as one set of tensors.

    Coordinates are row-major: block 0's d, block 1's d, and so on. Candidate i of a search is its blocks'
    i-th candidates side by side, and every block is told the joint loss: the covariance is block-diagonal,
    the cost O(B d²), and each block has its own step size. A search has stopped when all its blocks have;
    until then all of them vary.

    With `turns`, one block a generation varies, and the others are held at the best that the search has
    met, 0 at first: coordinate descent, by blocks that have not stopped. The losses then differ by that
    block alone.

    With `recombine`, where every image of a batch has residuals of its own, a block is not told the joint
    loss but that of its candidates beside the other blocks' best, by inner products of residuals and no
    further evaluation; these bests, recombined, are a candidate more of the next generation.

    Args:
        latent_dim: B · d.
        blocks: B; with one, each search is `CMAES` of its seed, bit for bit.
        seeds: one a search.
        device: where the tensors live.
        sigma0: initial step size, in standard deviations of the prior.
        population: λ, candidates a generation; by default 4 + ⌊3 ln(B · d)⌋.
        turns: vary one block at a time.
        recombine: tell blocks losses of their own.

    Raises:
        InputError: `turns` and `recombine` together, blocks that do not divide the dimension, and what
            `BatchedCMAES` refuses.
    """

    needs_gradient = False

    def __init__(
        self,
        latent_dim: int,
        *,
        blocks: int,
        seeds: Sequence[int],
        device: torch.device,
        sigma0: float = 0.5,
        population: int | None = None,
        turns: bool = False,
        recombine: bool = False,
    ) -> None:
        if turns and recombine:
            raise InputError("block-cma-es: expected turns or recombine, found both")
        if latent_dim < 1:
            raise InputError(f"expected a latent dimension of at least 1, found {latent_dim}")
        if blocks < 1 or latent_dim % blocks:
            raise InputError(
                f"block-cma-es: expected blocks that divide the {latent_dim} dimensions, found {blocks}"
            )
        self.latent_dim, self.blocks, self.turns, self.device = latent_dim, blocks, turns, device
        self.population = default_population(latent_dim) if population is None else population
        self.needs_residuals = recombine and blocks > 1
        self.searches = BatchedCMAES(
            latent_dim // blocks,
            seeds=[_block_seed(seed, block) for seed in seeds for block in range(blocks)],
            device=device,
            sigma0=sigma0,
            population=self.population,
        )
        self.best = torch.zeros(len(seeds), blocks, latent_dim // blocks, dtype=torch.float64, device=device)
        self.best_loss = torch.full((len(seeds),), torch.inf, dtype=torch.float64, device=device)
        self.turn = torch.zeros(len(seeds), dtype=torch.int64)
        self._varied: list[list[int]] = []
        self._chosen: list[int] = []

    def __len__(self) -> int:
        return len(self.turn)

    def sizes(self) -> list[int]:
        """Return λ, or λ + 1 with recombination, 0 where all blocks of a search have stopped."""
        return [max(own) + self.needs_residuals if max(own) else 0 for own in self._block_sizes()]

    def _block_sizes(self) -> list[list[int]]:
        sizes, count = self.searches.sizes(), self.blocks
        return [sizes[k * count : (k + 1) * count] for k in range(len(self))]

    def ask(self, chosen: Sequence[int]) -> list[Tensor]:
        """Return (λ, B · d) for each chosen search."""
        varied = [self._to_vary(k, own) for k, own in enumerate(self._block_sizes())]
        numbers = [k * self.blocks + block for k in chosen for block in varied[k]]
        asked = torch.stack(self.searches.ask(numbers)).split([len(varied[k]) for k in chosen])
        self._chosen, self._varied = list(chosen), [varied[k] for k in chosen]
        return [
            self._compose(k, blocks, rows)
            for k, blocks, rows in zip(self._chosen, self._varied, asked, strict=True)
        ]

    def _to_vary(self, k: int, sizes: Sequence[int]) -> list[int]:
        """Return the blocks of search k that vary next: all, or the next in turn that has not stopped."""
        if not self.turns:
            return list(range(self.blocks))
        order = [(int(self.turn[k]) + step) % self.blocks for step in range(self.blocks)]
        return [next((block for block in order if sizes[block]), order[0])]

    def _compose(self, k: int, varied: Sequence[int], rows: Float[Tensor, "b n d"]) -> Float[Tensor, "k bd"]:
        """Return candidates whose varied blocks are these rows, the rest the best of search k."""
        if len(varied) == self.blocks:
            whole = rows.movedim(0, 1)
            return torch.cat([whole, self.best[k][None]] if self.needs_residuals else [whole]).flatten(1)
        whole = self.best[k].repeat(self.population, 1, 1)
        whole[:, list(varied)] = rows.movedim(0, 1)
        return whole.flatten(1)

    def tell(
        self,
        z: Rows,
        losses: Rows,
        gradients: Rows | None = None,  # noqa: ARG002
        residuals: Sequence[Residuals] | None = None,
    ) -> None:
        """Tell every block that varied the joint losses, or its own.

        Raises:
            InputError: nothing was asked, or rows of another shape.
        """
        shapes = [tuple(rows.shape) for rows in z]
        expected = [(self.population + self.needs_residuals, self.latent_dim)] * len(self._chosen)
        if self._chosen and (shapes != expected or len(losses) != len(z)):
            raise InputError(
                f"expected {len(expected)} generations of {expected[0]} with their losses, found {shapes}: "
                "return what was asked"
            )
        parts = [
            self._blocks_of(rows)[varied].unbind() for rows, varied in zip(z, self._varied, strict=False)
        ]
        if self.needs_residuals and residuals is not None:
            told = [self._recombine(*each) for each in zip(self._chosen, z, losses, residuals, strict=True)]
        else:
            told = [[loss] * len(varied) for loss, varied in zip(losses, self._varied, strict=False)]
        own = [rows[: self.population] for rows in chain.from_iterable(parts)]
        self.searches.tell(own, list(chain.from_iterable(told)))
        for k, varied, rows, loss in zip(self._chosen, self._varied, z, losses, strict=True):
            self.turn[k] = (varied[-1] + 1) % self.blocks
            if not self.needs_residuals:
                self._keep_best(k, rows, loss.detach().to(self.device, torch.float64))
        self._chosen, self._varied = [], []

    def _recombine(self, k: int, rows: Tensor, loss: Tensor, told: Residuals) -> list[Tensor]:
        """Return each block's own losses, and keep the best blocks; the last row holds those of before."""
        told = told.sorted(torch.arange(len(rows)))
        if told.values.shape[1] != self.blocks:
            raise InputError(
                "block-cma-es: recombine expects every image's own residuals, found those of a whole batch: "
                "images interact here, or the view is not linear; leave it out"
            )
        points = rows.detach().to("cpu", torch.float64).unflatten(1, (self.blocks, -1))
        record = Record(told.target, (len(told.target),), self.blocks, points.shape[2], len(points))
        record.add(points, told.values, loss.detach().to("cpu", torch.float64))
        products, before = record.products[0], torch.full((self.blocks,), len(rows) - 1)
        own = [beside_others(products, before, block, told.unit) for block in range(self.blocks)]
        best = recombined(products, torch.zeros(len(rows), self.blocks), before, told.unit)
        self.best[k] = record.at(best).to(self.device)
        return [losses[: self.population].to(self.device) for losses in own]

    def _blocks_of(self, rows: Float[Tensor, "n bd"]) -> Float[Tensor, "b n d"]:
        parts: Tensor = rows.unflatten(1, (self.blocks, -1)).movedim(1, 0)
        return parts

    def _keep_best(self, k: int, rows: Tensor, loss: Tensor) -> None:
        """Note the generation's best candidate, if better; equal losses may be stand-ins for NaN."""
        loss = torch.where(loss.isfinite(), loss, torch.inf)
        least = int(loss.argmin())
        if loss[least] < loss.max() and loss[least] < self.best_loss[k]:
            self.best_loss[k] = loss[least]
            self.best[k] = rows[least].to(self.device, torch.float64).view(self.blocks, -1)

    def state_dict(self) -> State:
        """Return everything that resumed searches need.

        Raises:
            InputError: a generation was asked and not yet told.
        """
        return {f"blocks.{name}": t for name, t in self.searches.state_dict().items()} | self._own()

    def _own(self) -> State:
        return {"best": self.best.clone(), "best_loss": self.best_loss.clone(), "turn": self.turn.clone()}

    def load_state_dict(self, state: State) -> None:
        """Continue searches of the same settings from `state_dict`, bit for bit.

        Raises:
            CheckpointError: a state of other settings; the group is left as it was.
        """
        check_state({name: t for name, t in state.items() if not name.startswith("blocks.")}, self._own())
        self.searches.load_state_dict(part_of(state, "blocks."))
        self.best = state["best"].to(self.device, copy=True)
        self.best_loss = state["best_loss"].to(self.device, copy=True)
        self.turn = state["turn"].to("cpu", copy=True)
        self._chosen, self._varied = [], []


def _block_seed(seed: int, block: int) -> int:
    """Return the seed of a block: the first has the search's own, as a search of one block has."""
    return stream_seed(seed, "block", block) if block else seed


class BlockCMAES(SingleSearch):
    """CMA-ES with a covariance block for each image of a batch: O(B d²) where the full one is O((B d)²).

    The loop says how many blocks there are; with one it is `cma-es`. `BlockSearches` says how it works.

    Args:
        latent_dim: B · d.
        budget: objective evaluations planned; not used.
        seed: of the strategy's own random streams, one a block.
        blocks: B.
        sigma0: initial step size, in standard deviations of the prior.
        population: λ, candidates a generation; by default 4 + ⌊3 ln(B · d)⌋.
        turns: vary one block a generation, the others held at the best so far.
        recombine: tell each block the losses of its candidates beside the other blocks' best.

    Raises:
        InputError: a dimension below 1, blocks that do not divide it, a population below 3 or a sigma0
            that is not above 0.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        budget: int,
        seed: int,
        blocks: int = 1,
        sigma0: float = 0.5,
        population: int | None = None,
        turns: bool = False,
        recombine: bool = False,
    ) -> None:
        searches = self.group(
            latent_dim,
            budget=budget,
            seeds=[seed],
            device=torch.device("cpu"),
            blocks=blocks,
            sigma0=sigma0,
            population=population,
            turns=turns,
            recombine=recombine,
        )
        super().__init__(searches)

    @classmethod
    def group(
        cls,
        latent_dim: int,
        *,
        budget: int,  # noqa: ARG003
        seeds: Sequence[int],
        device: torch.device,
        blocks: int = 1,
        sigma0: float = 0.5,
        population: int | None = None,
        turns: bool = False,
        recombine: bool = False,
    ) -> BlockSearches:
        """Return searches that advance together on `device`, one a seed; otherwise as the class."""
        return BlockSearches(
            latent_dim,
            blocks=blocks,
            seeds=seeds,
            device=device,
            sigma0=sigma0,
            population=population,
            turns=turns,
            recombine=recombine,
        )
