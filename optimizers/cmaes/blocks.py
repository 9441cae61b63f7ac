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

    Args:
        latent_dim: B · d.
        blocks: B; with one, each search is `CMAES` of its seed, bit for bit.
        seeds: one a search.
        device: where the tensors live.
        sigma0: initial step size, in standard deviations of the prior.
        population: λ, candidates a generation; by default 4 + ⌊3 ln(B · d)⌋.
        turns: vary one block at a time.

    Raises:
        InputError: blocks that do not divide the dimension, and what `BatchedCMAES` refuses.
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
    ) -> None:
        if latent_dim < 1:
            raise InputError(f"expected a latent dimension of at least 1, found {latent_dim}")
        if blocks < 1 or latent_dim % blocks:
            raise InputError(
                f"block-cma-es: expected blocks that divide the {latent_dim} dimensions, found {blocks}"
            )
        self.latent_dim, self.blocks, self.turns, self.device = latent_dim, blocks, turns, device
        self.population = default_population(latent_dim) if population is None else population
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
        """Return λ, 0 where all blocks of a search have stopped."""
        return [max(own) for own in self._block_sizes()]

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

    def _compose(self, k: int, varied: Sequence[int], rows: Float[Tensor, "b n d"]) -> Float[Tensor, "n bd"]:
        """Return candidates whose varied blocks are these rows, the rest the best of search k."""
        if len(varied) == self.blocks:
            return rows.movedim(0, 1).flatten(1)
        whole = self.best[k].repeat(self.population, 1, 1)
        whole[:, list(varied)] = rows.movedim(0, 1)
        return whole.flatten(1)

    def tell(
        self,
        z: Rows,
        losses: Rows,
        gradients: Rows | None = None,  # noqa: ARG002
        residuals: Sequence[Residuals] | None = None,  # noqa: ARG002
    ) -> None:
        """Tell every block that varied the joint losses.

        Raises:
            InputError: nothing was asked, or rows of another shape.
        """
        shapes = [tuple(rows.shape) for rows in z]
        expected = [(self.population, self.latent_dim)] * len(self._chosen)
        if self._chosen and (shapes != expected or len(losses) != len(z)):
            raise InputError(
                f"expected {len(expected)} generations of {expected[0]} with their losses, found {shapes}: "
                "return what was asked"
            )
        parts = [
            self._blocks_of(rows)[varied].unbind() for rows, varied in zip(z, self._varied, strict=False)
        ]
        repeated = [[loss] * len(varied) for loss, varied in zip(losses, self._varied, strict=False)]
        self.searches.tell(list(chain.from_iterable(parts)), list(chain.from_iterable(repeated)))
        for k, varied, rows, loss in zip(self._chosen, self._varied, z, losses, strict=True):
            self.turn[k] = (varied[-1] + 1) % self.blocks
            self._keep_best(k, rows, loss.detach().to(self.device, torch.float64))
        self._chosen, self._varied = [], []

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
        )
