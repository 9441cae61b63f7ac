"""Options in a strategy's name that are the attack's and not the searcher's: `tune=RATE`, `layers=head`."""

import math
from dataclasses import dataclass

from ggl.attacks.settings import AUTO
from ggl.base.errors import InputError

__all__ = ["StrategyOptions", "read_options"]

TUNE, LAYERS, HEAD = "tune=", "layers=", "head"


@dataclass(frozen=True)
class StrategyOptions:
    """A strategy as it was typed, taken apart.

    Attributes:
        searcher: its name and its own options.
        rate: at which half of the evaluations tune the generator (`ggl.attacks.tuning`), None for none.
        is_head: whether the search compares the gradient of the victim's last layer alone, which a forward
            pass gives; its winner is scored by everything that was shared.
    """

    searcher: str
    rate: float | None = None
    is_head: bool = False

    def own(self, budget: int) -> int:
        """Return the evaluations that are the searcher's: half where the generator is tuned, else all."""
        return budget if self.rate is None else budget - budget // 2


def read_options(strategy: str) -> StrategyOptions:
    """Return what a strategy's name asks for.

    Raises:
        InputError: a rate that is no number above 0, other layers than the head, both at once, or options
            of "auto".

    >>> read_options("adam:starts=2,tune=0.001")
    StrategyOptions(searcher='adam:starts=2', rate=0.001, is_head=False)
    >>> read_options("gauss-newton:layers=head")
    StrategyOptions(searcher='gauss-newton', rate=None, is_head=True)
    """
    first, *others = strategy.split(",")
    name, _, option = first.rpartition(":")
    options = [part.strip() for part in ([option, *others] if name else others)]
    rates, layers = ([p.removeprefix(key) for p in options if p.startswith(key)] for key in (TUNE, LAYERS))
    if not rates and not layers:
        return StrategyOptions(strategy)
    if layers not in ([], [HEAD]):
        raise InputError(f"strategy {strategy!r}: expected {LAYERS}{HEAD}, found {layers}")
    if rates and layers:
        raise InputError(f"strategy {strategy!r}: expected {TUNE}RATE or {LAYERS}{HEAD}, found both")
    if name == AUTO:
        asked = f"{TUNE}RATE" if rates else f"{LAYERS}{HEAD}"
        raise InputError(f"strategy {strategy!r}: {AUTO} takes no options; name one, gauss-newton:{asked}")
    kept = ",".join(p for p in options if not p.startswith((TUNE, LAYERS)))
    own = (f"{name}:{kept}" if kept else name) if name else first
    return StrategyOptions(own, _rate(strategy, rates), bool(layers))


def _rate(strategy: str, rates: list[str]) -> float | None:
    if not rates:
        return None
    try:
        (rate,) = map(float, rates)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise InputError(f"strategy {strategy!r}: expected one rate above 0 after {TUNE}, found {rates}")
    return rate
