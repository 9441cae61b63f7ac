"""Reconstruction without truth: what a captured update says, where nobody can compare it with the images.

No leak is claimed here. What can be said is how well the reconstruction's gradient matches the update, and
by how much better than what the same attack makes of updates that other images made. An attack fits even an
update that holds nothing, a little: so that gap is set beside the gaps of noise.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.attacks.course import SearchResult
from ggl.attacks.jobs import search_jobs
from ggl.attacks.label_sources import check_label_rule
from ggl.attacks.settings import AUTO, AttackSettings
from ggl.attacks.stages import Stage
from ggl.attacks.strategy_choice import chosen_strategy
from ggl.attacks.target import Target
from ggl.attacks.workplace import Workplace
from ggl.audits.clients import noise_client
from ggl.base.errors import InputError
from ggl.base.processes import one_thread
from ggl.base.random import stream, stream_seed
from ggl.captures.reconstruction import Reconstruction
from ggl.defenses import Client, Defense, load_defense
from ggl.generators import Prior
from ggl.generators.plausibility import warn_if_implausible
from ggl.gradients import GradientOracle, Gradients, LocalTraining
from ggl.gradients.batch_statistics import BatchStatistics, statistics_of
from ggl.gradients.oracle import check_gradient
from ggl.victims.losses import Loss, loss_name

__all__ = ["CONTROLS", "reconstruct"]

CONTROLS = 6
"""Updates of other images, and as many of noise, that are attacked beside the captured one."""


@dataclass(frozen=True)
class _Attack:
    """How the captured update and the controls are attacked alike."""

    oracle: GradientOracle
    settings: AttackSettings
    checkpoints: Path | None
    place: Workplace

    def run(self, title: str, targets: Sequence[Target]) -> list[SearchResult]:
        """Return what comes of targets that are attacked side by side."""
        jobs = search_jobs(title, self.oracle, targets, self.settings, self.checkpoints)
        return self.place.begin(jobs).results()

    @torch.no_grad()
    def match(self, result: SearchResult, shared: Gradients) -> float:
        """Return the distance of a reconstruction's gradient to a shared one, as the attacker compares."""
        settings = self.settings
        view = settings.defense.view(shared, settings.attacker, self.oracle.model)
        trial = settings.defense.trial(settings.attacker)
        return float(self.oracle.score(result.images[None], result.labels, view, settings.distance, trial))


@one_thread()
def reconstruct(
    victim: nn.Module,
    shared: Gradients,
    *,
    prior: Prior,
    pool: tuple[Float[Tensor, "k c h w"], Int[Tensor, " k"]],
    batch_size: int = 1,
    labels: Int[Tensor, " b"] | None = None,
    label_rule: str | None = None,
    defense: str | Defense = "none",
    attacker: str = "adaptive",
    strategy: str = AUTO,
    distance: str = "cosine",
    latents: str | None = None,
    local: LocalTraining | None = None,
    loss: str | Loss = "cross-entropy",
    output: str | None = None,
    statistics: BatchStatistics | None = None,
    controls: int = CONTROLS,
    budget: int = 2000,
    seed: int = 0,
    backend: str = "auto",
    precision: str = "float32",
    round: int = 0,  # noqa: A002
    rounds: int = 10_000,
    checkpoints: Path | None = None,
    workers: int = 1,
    progress: Stage | None = None,
) -> Reconstruction:
    """Attack an update of unknown images; as controls, updates of known images with its labels, and noise.

    Args:
        victim: the model before the update, in the mode that the client trained it in.
        shared: the update in units of gradients, as `ggl.captured_update` gives it.
        prior: the attacker's generator.
        pool: images (k, c, h, w) in [0, 1] of the same domain and their labels; controls come from here.
        batch_size: images of the client; of no effect where `labels` are given.
        labels: (b,), where they are known.
        label_rule: as in `ggl.attack`; by default "known" where labels are given, else "inferred".
        defense: what the client did; the controls' clients do it too.
        attacker: as in `ggl.attack`.
        strategy: as in `ggl.attack`.
        distance: as in `ggl.attack`.
        latents: as in `ggl.attack`.
        local: the client's local steps.
        loss: that the client minimized, as of `GradientOracle`.
        output: which of the victim's outputs the logits are, as of `GradientOracle`.
        statistics: of the client's batch, as its running statistics tell them, matched beside the update.
            Attackers of controls are told the controls' own, those of noise the control's of its number.
        controls: how many updates of other images are attacked, and of noise, at least 2. Their attackers are
            told the labels that were inferred or found, so that no gap is one of labels.
        budget: objective evaluations of each search.
        seed: of every random draw.
        backend: of the gradient oracle.
        precision: of the gradient oracle.
        round: rounds of training before this one, for defenses that change over training.
        rounds: of training in all.
        checkpoints: a folder that lets a killed run resume with an identical result.
        workers: as in `ggl.audit`.
        progress: called after every generation.

    Raises:
        InputError: names, shapes or labels that do not fit, or a pool without enough images of a label.
        GradientError: the update is zero or not finite.
        CheckpointError: `checkpoints` holds those of another run.

    Examples:
        >>> data, prior = ggl.load_dataset("fashion-mnist-heldout"), ggl.load_prior("fashion-dcgan32")
        >>> victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
        >>> shared = ggl.GradientOracle(victim).observe(data.images[:1], data.labels[:1])
        >>> pool = data.images[20:], data.labels[20:]
        >>> found = ggl.reconstruct(victim, shared, prior=prior, pool=pool, budget=100)
        >>> found.results[0].images.shape
        torch.Size([1, 1, 32, 32])
    """
    started = time.monotonic()
    if controls < 2:
        raise InputError(f"expected at least 2 controls, found {controls}")
    known = load_defense(defense)
    rule = label_rule or ("inferred" if labels is None else "known")
    check_label_rule(rule)
    if local is not None:
        local.check(batch_size if labels is None else len(labels))
    model = known.wrap(victim, seed)
    device = next((p.device for p in victim.parameters()), torch.device("cpu"))
    oracle = GradientOracle(
        copy.deepcopy(model).to(device),
        loss=loss,
        output=output,
        backend=backend,
        precision=precision,
        local=local,
    )
    check_gradient(shared, "the captured update")
    settings = AttackSettings(
        prior=prior,
        budget=budget,
        strategy=strategy,
        defense=known,
        attacker=attacker,
        distance=distance,
        latents=prior.latents if latents is None else latents,
        label_rule=rule,
        seed=seed,
    )
    target = Target("captured", shared, batch_size if labels is None else labels, statistics)
    doubts = warn_if_implausible(prior, seed, stacklevel=4)
    view = known.view(shared, attacker, oracle.model)
    chosen = chosen_strategy(settings, oracle, view, target.batch_size, statistics=statistics is not None)
    settings = replace(settings, strategy=chosen)
    attack = _Attack(oracle, settings, checkpoints, Workplace(workers, oracle.device, progress))
    with attack.place:
        (result,) = attack.run("captured update", [target])
        batches = _control_batches(result.labels, pool, controls, seed)
        updates = [shared, *_control_updates(attack, result.labels, batches, round, rounds, shared)]
        seen = [None if statistics is None else statistics_of(oracle.model, images) for images in batches] * 2
        names = [f"{kind} {k}" for kind in ("control", "noise") for k in range(controls)]
        told = replace(attack, settings=replace(settings, label_rule="known"))
        others = told.run(
            "controls",
            [Target(n, u, result.labels, s) for n, u, s in zip(names, updates[1:], seen, strict=True)],
        )
    results = [result, *others]
    return Reconstruction(
        settings={
            **_settings(attack, victim, result, local, controls),
            "batch_statistics": statistics is not None,
            "prior_doubts": doubts,
        },
        results=results,
        matches=np.array([[attack.match(found, update) for update in updates] for found in results]),
        seconds=time.monotonic() - started,
    )


def _control_updates(
    attack: _Attack,
    labels: Int[Tensor, " b"],
    batches: Sequence[Tensor],
    round: int,  # noqa: A002
    rounds: int,
    captured: Gradients,
) -> list[Gradients]:
    """Return the defended updates of other images with these labels, then those of noise."""
    clients = [
        Client(
            attack.oracle,
            images,
            labels,
            seed=stream_seed(attack.settings.seed, "client noise", "control", k),
            round=round,
            rounds=rounds,
        )
        for k, images in enumerate(batches)
    ]
    noises = [
        noise_client(client, client, captured, stream(attack.settings.seed, "noise control", k))
        for k, client in enumerate(clients)
    ]
    return [
        attack.settings.defense.share(client, stream(attack.settings.seed, "client", kind, k))
        for kind, group in (("control", clients), ("noise", noises))
        for k, client in enumerate(group)
    ]


def _control_batches(
    labels: Int[Tensor, " b"], pool: tuple[Tensor, Tensor], count: int, seed: int
) -> list[Float[Tensor, "b c h w"]]:
    """Draw batches of images with the labels; no batch holds one image twice.

    Raises:
        InputError: a class without enough images.
    """
    images, classes = pool
    batches = []
    for k in range(count):
        order = torch.randperm(len(classes), generator=stream(seed, "control batch", k))
        rows: list[int] = []
        for label in labels.tolist():
            fitting = (int(row) for row in order if int(classes[row]) == label and int(row) not in rows)
            row = next(fitting, None)
            if row is None:
                raise InputError(
                    f"expected {labels.tolist().count(label)} images of class {label} for a control, found "
                    "fewer; give more images of the client's domain and its classes"
                )
            rows.append(row)
        batches.append(images[rows])
    return batches


def _settings(
    attack: _Attack, victim: nn.Module, result: SearchResult, local: LocalTraining | None, controls: int
) -> dict[str, object]:
    settings = attack.settings
    return {
        "victim": type(victim).__name__,
        "victim_mode": "train" if victim.training else "eval",
        "prior": settings.prior.name,
        "prior_assumed": list(settings.prior.assumed),
        "batch_size": len(result.labels),
        "label_rule": settings.label_rule,
        "defense": settings.defense.name,
        "attacker": settings.attacker,
        "strategy": settings.strategy,
        "distance": settings.distance,
        "latents": settings.latents,
        "local_training": None if local is None else local.to_dict(),
        "loss": loss_name(attack.oracle.loss),
        "controls": controls,
        "budget": settings.budget,
        "seed": settings.seed,
        "backend": attack.oracle.backend,
        "precision": attack.oracle.precision,
        "device": str(attack.oracle.device),
    }
