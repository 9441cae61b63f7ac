"""The rungs of a ladder: attackers from the plainest to the strongest, each by what it assumes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ggl.attacks.settings import AUTO
from ggl.audits.attackers import ANALYTIC
from ggl.defenses import ATTACKERS, Defense

__all__ = ["CLASS_ALONE", "Rung", "rungs_of"]

Statistics: TypeAlias = Literal["not observed", "observed", "where they can be"]

KNOWS = {
    "": "nothing",
    "naive": "nothing",
    ANALYTIC: "its kind",
    "adaptive": "its kind",
    "informed": "its kind and its parameters",
}
"""What an attacker knows of the defense; of one that is not here, its kind and a published attack on it."""

MEANS = {
    "": ("nothing", "none"),
    ANALYTIC: ("nothing, it solves", "none"),
    "ig": ("pixels", "of the victim"),
    AUTO: ("the prior", "none"),
    "adam": ("the prior", "of victim and prior"),
}
"""What a strategy searches, and which derivatives it needs."""


@dataclass(frozen=True)
class Rung:
    """One attacker of a ladder.

    Attributes:
        name: that no other rung of the ladder has.
        adds: in words, what it assumes that the rung it builds on does not.
        on: the name of that rung, "" where it builds on none.
        strategy: of `ggl.audit`, "analytic" where the first layer is solved, "" where nothing is attacked.
        attacker: of `ggl.audit`, "" where nothing is attacked.
        told: whether the attacker is given the true labels, instead of reading them off the gradient.
        statistics: of the batch at the victim's batch normalization: whether they are observed.
        alone: whether every image of a batch has a gradient of its own.
        diagnostic: whether something is assumed that no server of a federation sees.
    """

    name: str
    adds: str
    on: str = ""
    strategy: str = AUTO
    attacker: str = "adaptive"
    told: bool = False
    statistics: Statistics = "not observed"
    alone: bool = False
    diagnostic: bool = False

    @property
    def kind(self) -> str:
        """Whether an attacker could stand on this rung."""
        if not self.attacker:
            return "control"
        return "diagnostic" if self.diagnostic else "realistic"

    def assumes(self) -> dict[str, str]:
        """Return every assumption, in words, by what it is about."""
        searches, derivatives = MEANS[self.strategy]
        published = f"its kind, and the published attack {self.attacker!r}"
        return {
            "labels": "given" if self.told else "read off the gradient",
            "of the defense": KNOWS.get(self.attacker, published),
            "searches": searches,
            "derivatives": derivatives,
            "batch statistics": self.statistics,
            "gradient of": "each image" if self.alone else "the batch" if self.attacker else "nothing",
        }


CLASS_ALONE = Rung("class alone", "the class and other images of it, no gradient", "", "", "", told=True)
"""What a leak score of 0 is: the mean of other images of the class, if that is the strongest control."""

BEFORE_THE_DEFENSE = (
    CLASS_ALONE,
    Rung(
        "closed form", "a gradient of one image and one step, at a first linear layer", "", ANALYTIC, ANALYTIC
    ),
    Rung("pixels", "a gradient, whose labels are read off it; no prior", "", "ig", "naive"),
    Rung("prior", "a generator of the images' domain", "", AUTO, "naive"),
)

KNOWING_THE_DEFENSE = (
    Rung("defense known", "the defense's kind; its parameters are estimated", "prior"),
    Rung("derivatives", "derivatives of victim and prior", "defense known", "adam"),
    Rung(
        "batch statistics",
        "running statistics that the client sends beside its gradient",
        "derivatives",
        "adam",
        statistics="observed",
    ),
    Rung("true labels", "the labels, told", "defense known", told=True, diagnostic=True),
    Rung(
        "parameters told", "the defense's parameters", "true labels", AUTO, "informed", True, diagnostic=True
    ),
    Rung(
        "all together",
        "derivatives, and batch statistics where they can be observed",
        "parameters told",
        "adam",
        "informed",
        told=True,
        statistics="where they can be",
        diagnostic=True,
    ),
    Rung(
        "image by image",
        "a gradient of every image apart",
        "all together",
        "adam",
        "informed",
        told=True,
        alone=True,
        diagnostic=True,
    ),
)


def rungs_of(defenses: Sequence[Defense]) -> list[Rung]:
    """Return the rungs of a ladder in their order: of published attacks those that a defense knows.

    What a rung assumes is what the one that it builds on does, and what it adds; realistic rungs come
    before diagnostic ones.
    """
    names = dict.fromkeys(a for defense in defenses for a in defense.attackers if a not in ATTACKERS)
    published = [
        Rung(
            f"published: {name}", f"the defense's kind, by its published attack {name!r}", "prior", AUTO, name
        )
        for name in names
    ]
    return [*BEFORE_THE_DEFENSE, *published, *KNOWING_THE_DEFENSE]
