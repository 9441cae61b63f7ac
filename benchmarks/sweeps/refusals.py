"""Which cells a component refuses, and why, found before anything runs: every component is loaded once."""

from collections.abc import Callable, Sequence

from torch import nn

from ggl.attacks.analytic import find_first_linear
from ggl.attacks.latents import load_latents
from ggl.attacks.search import check_budget
from ggl.attacks.strategy_options import read_options
from ggl.audits.attackers import ALL, ANALYTIC, check_attackers
from ggl.base.errors import InputError, UnknownNameError, WeightsError
from ggl.base.registry import unknown_name
from ggl.benchmarks.sweeps.cells import SweepCell
from ggl.benchmarks.sweeps.components import Components
from ggl.commands.audit_inputs import check_classes
from ggl.commands.weight_options import weights_argument
from ggl.datasets.fit import FITS
from ggl.datasets.picking import pick_private
from ggl.generators import Prior
from ggl.gradients import GradientOracle
from ggl.gradients.distance import find_distance
from ggl.optimizers import load_strategy

__all__ = ["refusals"]

USUAL_BUDGET = 5_000
"""A strategy that refuses this as well is wrong by itself, and not for the cell's budget."""


def refusals(rows: Sequence[SweepCell], components: Components) -> dict[SweepCell, str]:
    """Return the cells that a component refuses, each with the component's reason.

    Args:
        rows: cells, of which those that differ in image alone are alike.
        components: what is loaded already; what the cells need is added.

    Raises:
        UnknownNameError: a name that is not known.
        InputError: a component that is wrong by itself, or every cell is refused.
        WeightsError: a prior's weights are missing or damaged.
    """
    _check_names(rows, components)
    reasons: dict[SweepCell, str] = {}
    for row in rows:
        for reason_of in (_data, _victim, _wrapped, _attacker, _strategy):
            reason = reason_of(row, components)
            if reason:
                reasons[row] = reason
                break
    if len(reasons) == len(rows):
        raise InputError(f"every cell is refused, the first because: {reasons[rows[0]]}")
    return reasons


def _check_names(rows: Sequence[SweepCell], components: Components) -> None:
    """Raise for what does not depend on what else is in a cell."""
    defenses = {row.defense: components.defense(row) for row in rows}
    attackers = list(dict.fromkeys(row.attacker for row in rows))
    if ALL in attackers:
        raise InputError(f"axes.attacker: expected one attacker a value, found {ALL!r}; name each of them")
    check_attackers(attackers, list(defenses.values()))
    for distance in dict.fromkeys(row.distance for row in rows):
        find_distance(distance)
    for rule in {row.latents for row in rows} - {None}:
        load_latents(str(rule))
    for fit in {row.fit for row in rows} - {None, *FITS}:
        raise unknown_name("fit", str(fit), sorted(FITS))
    for backend, precision in dict.fromkeys((row.backend, row.precision) for row in rows):
        GradientOracle(nn.Linear(1, 1), backend=backend, precision=precision)
    for weights in {row.victim_weights for row in rows} - {None}:
        if not weights_argument("axes.victim_weights", str(weights)).path.is_file():
            raise InputError(f"axes.victim_weights: expected a weight file, found none at {weights}")


def _data(cell: SweepCell, components: Components) -> str:
    prior = components.prior(cell)
    key = ("check data", cell.data, cell.prior)
    return components.once(key, lambda: _reason(lambda: _check_data(cell, components, prior)))


def _check_data(cell: SweepCell, components: Components, prior: Prior) -> None:
    data = components.data(cell)
    check_classes(data, prior)
    prior.check_labels(data.labels)
    pick_private(data.labels, cell.images, cell.image_seed)


def _victim(cell: SweepCell, components: Components) -> str:
    key = ("check victim", cell.victim, cell.victim_weights, cell.prior, cell.data)
    return components.once(key, lambda: _reason(lambda: components.victim(cell)))


def _wrapped(cell: SweepCell, components: Components) -> str:
    """Return why a defense can't be put around a victim: a layer that it names may be another victim's."""
    wrap = components.defense(cell).wrap
    key = ("check defense", cell.victim, cell.victim_weights, cell.prior, cell.data, cell.defense)

    def attempt() -> None:
        try:
            wrap(components.victim(cell), cell.victim_seed)
        except UnknownNameError as error:
            raise InputError(str(error)) from error

    return components.once(key, lambda: _reason(attempt))


def _attacker(cell: SweepCell, components: Components) -> str:
    known = components.defense(cell).attackers
    if cell.attacker == ANALYTIC:
        key = ("check analytic", cell.victim, cell.prior, cell.data, cell.defense)
        return components.once(key, lambda: _solvable(cell, components))
    if cell.attacker in known:
        return ""
    return f"defense {cell.defense} does not know the attacker {cell.attacker!r}; it knows {', '.join(known)}"


def _solvable(cell: SweepCell, components: Components) -> str:
    model = components.defense(cell).wrap(components.victim(cell), cell.victim_seed)
    if find_first_linear(model, components.prior(cell).image_shape) is not None:
        return ""
    return f"victim {cell.victim} has no first linear layer with a bias for the analytic attacker"


def _strategy(cell: SweepCell, components: Components) -> str:
    prior = components.prior(cell)

    def check(budget: int) -> None:
        options = read_options(cell.strategy)
        if options.rate is not None:
            raise InputError(f"strategy {cell.strategy!r}: sweeps do not tune, expected it without tune=")
        made = load_strategy(options.searcher, latent_dim=prior.latent_dim, budget=budget, seed=0)
        check_budget(budget, made.batch_size)

    def find() -> str:
        reason = _reason(lambda: check(cell.budget))
        if reason and _reason(lambda: check(USUAL_BUDGET)):
            check(USUAL_BUDGET)
        return reason

    return components.once(("check strategy", cell.strategy, prior.latent_dim, cell.budget), find)


def _reason(attempt: Callable[[], object]) -> str:
    """Return why an attempt is refused, or nothing."""
    try:
        attempt()
    except UnknownNameError:
        raise
    except (InputError, WeightsError) as error:
        return str(error)
    return ""
