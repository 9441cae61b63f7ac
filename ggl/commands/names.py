"""What is registered under a name: listed, completed and checked before anything heavy is imported."""

from collections.abc import Callable, Sequence
from typing import Any

from ggl.attacks.pixel_attacks import CONTRASTS
from ggl.base.registry import Registry
from ggl.defenses.catalog import defenses
from ggl.generators.catalog import priors
from ggl.optimizers.catalog import strategies
from ggl.victims.catalog import check_victim_name, losses, victims

__all__ = ["check_names", "completion", "describe"]

KINDS: dict[str, Registry[Any]] = {
    "priors": priors,
    "strategies": strategies,
    "defenses": defenses,
    "victims": victims,
    "losses": losses,
}


def describe(kind: str) -> dict[str, str]:
    """Return what is registered, a line each, by name, for "priors", "strategies" and so on."""
    table = KINDS[kind]
    return {name: table.summary(name) for name in table.names()}


def completion(kind: str) -> Callable[[str], list[tuple[str, str]]]:
    """Return what completes a name of a kind in a shell: names that begin so, with what each is."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        known = describe(kind)
        return [(name, summary) for name, summary in known.items() if name.startswith(incomplete)]

    return complete


def check_names(
    *,
    victim: str = "",
    prior: str = "",
    strategies: Sequence[str] = (),
    defenses: Sequence[str] = (),
    loss: str = "",
) -> None:
    """Raise `UnknownNameError` for a specification that names nothing; empty ones are not looked at."""
    if victim:
        check_victim_name(victim)
    asked = {
        "losses": [loss],
        "priors": [prior],
        "strategies": [text for text in strategies if text not in (*CONTRASTS, "auto")],
        "defenses": [part.strip() for text in defenses for part in text.split("+")],
    }
    for kind, specifications in asked.items():
        for specification in filter(None, specifications):
            KINDS[kind].check(specification)
