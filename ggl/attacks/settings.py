"""How an attacker searches, once: what the keywords of `attack`, `audit` and `reconstruct` come to."""

from dataclasses import dataclass, field

from ggl.defenses import Defense, NoDefense
from ggl.generators import Prior

__all__ = ["AUTO", "STATISTICS_WEIGHT", "AttackSettings"]

AUTO = "auto"
"""Stands for the strategy that suits an attack; `ggl.attacks.strategy_choice` says which."""

STATISTICS_WEIGHT = 0.3
"""Chosen by `benchmarks/studies/batch_statistics.py` on images other than those that it reports."""


@dataclass(frozen=True)
class AttackSettings:
    """How an attacker searches a prior for the images behind a gradient; see `ggl.attack`.

    Attributes:
        prior: whose latents are searched.
        latents: how searched coordinates become latents, as `ggl.attacks.latents.load_latents` reads it.
        label_rule: one of `ggl.attacks.label_sources.LABEL_RULES`.
        defense: what the attacker believes that the client did.
        budget: objective evaluations of each target, all its restarts together.
        statistics_weight: of R_BN beside the gradient's distance, for targets whose statistics are observed.
    """

    prior: Prior
    budget: int
    strategy: str = AUTO
    defense: Defense = field(default_factory=NoDefense)
    attacker: str = "adaptive"
    distance: str = "cosine"
    latents: str = "free"
    label_rule: str = "known"
    seed: int = 0
    restarts: int = 1
    statistics_weight: float = STATISTICS_WEIGHT
