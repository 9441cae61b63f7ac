"""What every cell of an audit shares."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from ggl.attacks.pixel_attacks import find_contrast
from ggl.attacks.settings import AttackSettings
from ggl.attacks.workplace import Workplace
from ggl.audits.clients import Clients
from ggl.audits.controls import Decoys
from ggl.defenses import Defense
from ggl.generators import load_prior
from ggl.gradients import GradientOracle
from ggl.measures.leakage import Measure
from ggl.victims.losses import loss_name

__all__ = ["AuditSetting"]


@dataclass(frozen=True)
class AuditSetting:
    """What every cell of an audit shares: the clients, their controls, the attacker's means.

    Attributes:
        attack: how every attacker searches, but for what a cell says otherwise: the strategy, the defense
            and the attacker.
        every_label: of the images of all clients, those that are not attacked here included.
        backend: that was asked of the oracle; a wrapped victim's is chosen anew.
        place: where searches are computed.
        known_ceiling: the images of the ceiling, where they are known already.
        stage: what the titles of its searches begin with, where several settings share checkpoints.
    """

    oracle: GradientOracle
    victim: nn.Module
    attack: AttackSettings
    clients: Clients
    every_label: Tensor
    decoys: Decoys
    errors: Mapping[str, Measure]
    ceiling_budget: int
    backend: str
    known_ceiling: Tensor | None
    checkpoints: Path | None
    place: Workplace
    stage: str = ""

    def searching(self, strategy: str) -> AttackSettings:
        """Return how a strategy searches the prior, or a contrast, by its name, the pixels."""
        contrast = find_contrast(strategy)
        if contrast is None:
            return replace(self.attack, strategy=strategy)
        return replace(
            self.attack,
            strategy=contrast.strategy,
            prior=load_prior("pixels:" + "x".join(map(str, self.attack.prior.image_shape))),
            distance=contrast.distance,
            latents=contrast.latents,
            label_rule=contrast.labels if contrast.labels != "known" else self.attack.label_rule,
        )

    def wrapped(self, defense: Defense) -> GradientOracle:
        """Return the oracle of the victim that clients of a defense train."""
        model = defense.wrap(self.victim, self.attack.seed)
        if model is self.victim:
            return self.oracle
        return GradientOracle(
            model.to(self.oracle.device),
            loss=self.oracle.loss,
            backend=self.backend,
            precision=self.oracle.precision,
            local=self.oracle.local,
        )

    @property
    def solvable(self) -> bool:
        """Whether a shared gradient is one image's own, of one step."""
        return self.clients.batch_size == 1 and (self.oracle.local is None or self.oracle.local.is_gradient)

    @property
    def attacker_knows(self) -> str:
        """What the attacker is taken to know, the defense apart."""
        known = ["architecture", "weights", "mode"]
        known += ["labels"] if self.attack.label_rule == "known" else []
        known += ["batch statistics"] if self.clients.statistics is not False else []
        known += [f"batch size {self.clients.batch_size}", "data domain"]
        if (local := self.oracle.local) is None:
            return ", ".join(known)
        told = local.order in ("given", "known")
        return ", ".join([*known, "local training" if told else "local training but the order of its images"])

    def described(self) -> dict[str, object]:
        """Return what a result says of its settings."""
        victim, local = self.victim, self.oracle.local
        return {
            "victim": type(victim).__name__,
            "victim_mode": "train" if victim.training else "eval",
            "victim_parameters": sum(p.numel() for p in victim.parameters()),
            "prior": self.attack.prior.name,
            "prior_assumed": list(self.attack.prior.assumed),
            "images": len(self.clients.images),
            "batch_size": self.clients.batch_size,
            "label_rule": self.attack.label_rule,
            "local_training": None if local is None else local.to_dict(),
            "loss": loss_name(self.oracle.loss),
            "captured": self.clients.captured is not None,
            "batch_statistics": self.clients.statistics is not False,
            "budget": self.attack.budget,
            "ceiling_budget": self.ceiling_budget,
            "seed": self.attack.seed,
            "distance": self.attack.distance,
            "latents": self.attack.latents,
            "backend": self.oracle.backend,
            "precision": self.oracle.precision,
            "round": self.clients.round,
            "rounds": self.clients.rounds,
            "device": str(self.oracle.device),
            "attacker_knows": self.attacker_knows,
        }
