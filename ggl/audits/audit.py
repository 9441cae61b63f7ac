"""The audit: every defense, attacker and strategy on the same images, against the same controls."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.attacks.settings import AUTO
from ggl.attacks.stages import Stage
from ggl.audits.cells import invert_private
from ggl.audits.ladder import climb
from ggl.audits.report import Report
from ggl.audits.request import AuditRequest, PreparedAudit
from ggl.audits.scoring import passive_controls, scored
from ggl.audits.truth import TruthCheck, worst_check
from ggl.base.processes import one_thread
from ggl.defenses import Defense
from ggl.generators import Prior
from ggl.gradients import Gradients, LocalTraining
from ggl.gradients.batch_statistics import BatchStatistics
from ggl.victims.losses import Loss

__all__ = ["audit"]


@one_thread()
def audit(
    victim: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    prior: Prior,
    defenses: Sequence[str | Defense] = ("none",),
    strategies: Sequence[str] = (AUTO,),
    attackers: Sequence[str] = ("adaptive",),
    budget: int = 2000,
    ceiling_budget: int | None = None,
    ceiling: Float[Tensor, "m c h w"] | None = None,
    only: Sequence[int] | None = None,
    seed: int = 0,
    decoys: tuple[Float[Tensor, "k c h w"], Int[Tensor, " k"]] | None = None,
    distance: str = "cosine",
    latents: str | None = None,
    batch_size: int = 1,
    label_rule: str = "known",
    local: LocalTraining | None = None,
    loss: str | Loss = "cross-entropy",
    output: str | None = None,
    captured: Sequence[Gradients] | None = None,
    truth: TruthCheck | None = None,
    force: bool = False,
    statistics: bool | Sequence[BatchStatistics] = False,
    backend: str = "auto",
    precision: str = "float32",
    round: int = 0,  # noqa: A002
    rounds: int = 10_000,
    ladder: bool = False,
    say: Callable[[str], None] | None = None,
    checkpoints: Path | None = None,
    workers: int = 1,
    progress: Stage | None = None,
) -> Report:
    """Measure how much of private images their clients' gradients give away.

    Every cell attacks the private batches, siblings of them (of every image another of its class) and noise
    gradients of the same norm: same seed, same budget, same defense. Reconstructions of a batch, those of
    the controls too, are matched to its images before they are scored; intervals and tests are over batches.

    Args:
        victim: the model, on the device and in the mode (train, eval) that the clients have.
        images: private images in [0, 1], of the prior's shape.
        labels: their classes.
        prior: the attacker's generator.
        defenses: names such as "none", "prune:0.9", "clip:4+noise:0.01".
        strategies: "auto" as in `ggl.attack`, names such as "cma-es", "adam:starts=2", or contrasts that
            search pixels instead of the prior ("dlg", "idlg", "ig").
        attackers: of "naive", "adaptive", "informed" and those that a defense adds; one that a defense
            does not know is "adaptive" to it. "analytic" solves the gradient of a first linear layer for
            the image; "all" is every one that applies. Those that would do the same are one, the first.
        budget: objective evaluations of each search.
        ceiling_budget: objective evaluations, with gradients, of each inversion of a private image itself;
            2000 by default. Fewer, for a slow prior, understate what could leak at most.
        ceiling: those inversions' images, of the images to be attacked, where they are known already.
        only: numbers of the clients to be attacked; the others' images are private too, and so no controls.
        seed: of every random draw.
        decoys: images and labels of the same domain, for ranks, siblings and class means; by default
            the prior's own held-out images.
        distance: "cosine" or "l2".
        latents: how searched coordinates become latents, as in `attack`.
        batch_size: images of each client, in a row.
        label_rule: where the attacker has the labels from: "known", "inferred" from the shared gradient, or
            "searched" with the latents.
        local: the clients' local steps, known to the attacker; by default they share one gradient.
        loss: that clients minimize, as of `GradientOracle`.
        output: which of the victim's outputs the logits are, as of `GradientOracle`.
        captured: what the clients to be attacked have shared, where it was captured and not to be computed
            here; defended already, in units of gradients. Where the images do not make them, leak scores
            are withheld.
        truth: what `check_truth` says of that; by default it is called here, for files of float32.
        force: give leak scores all the same.
        statistics: whether the clients' running statistics are observed, and those of their batches matched
            beside the gradient; or these, of each of the clients to be attacked, where they were captured.
        backend: of the gradient oracle.
        precision: of the gradient oracle.
        round: rounds of training before this one, for defenses that change over training.
        rounds: of training in all.
        ladder: climb from the plainest attacker to the strongest, as `ggl.audits.rungs` has them, instead of
            trying every strategy by every attacker.
        say: told, in a line each, what a ladder is about to run and what not.
        checkpoints: a folder that lets a killed audit resume with an identical result.
        workers: processes of one thread each that search, this one included; what they find does not depend
            on how many they are. More than one import the script that calls this, which then needs
            `if __name__ == "__main__":` before what it runs, and are handed the victim and the prior by
            pickle; a GPU is one's. This process computes with one thread meanwhile.
        progress: called after every generation.

    Raises:
        InputError: shapes, labels or names that do not fit.
        GradientError: a private image's gradient is zero or not finite.
        CheckpointError: `checkpoints` holds those of another audit.

    Examples:
        >>> data, prior = ggl.load_dataset("fashion-mnist-heldout"), ggl.load_prior("fashion-dcgan32")
        >>> victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
        >>> report = ggl.audit(victim, data.images[:2], data.labels[:2], prior=prior, defenses=["prune:0.9"],
        ...                    attackers=["naive", "adaptive"], budget=100)
        >>> [cell.attacker for cell in report.cells]
        ['naive', 'adaptive']
    """
    asked = AuditRequest(
        victim=victim,
        images=images,
        labels=labels,
        prior=prior,
        defenses=defenses,
        strategies=strategies,
        attackers=attackers,
        budget=budget,
        ceiling_budget=ceiling_budget,
        ceiling=ceiling,
        only=only,
        seed=seed,
        decoys=decoys,
        distance=distance,
        latents=latents,
        batch_size=batch_size,
        label_rule=label_rule,
        local=local,
        loss=loss,
        output=output,
        captured=captured,
        statistics=statistics,
        backend=backend,
        precision=precision,
        round=round,
        rounds=rounds,
        ladder=ladder,
    )
    prepared = asked.prepared(checkpoints, workers, progress)
    if prepared.ladder is not None and say is not None:
        for line in prepared.ladder.lines():
            say(line)
    truth = worst_check(prepared.setting, prepared.defenses) if truth is None else truth
    with prepared.setting.place:
        report = _run(prepared)
    return replace(report, truth=truth, forced=force)


def _run(prepared: PreparedAudit) -> Report:
    started, audit, plan = time.monotonic(), prepared.setting, prepared.ladder
    doubts = prepared.doubts(stacklevel=5)
    ceiling = invert_private(audit)
    passive = passive_controls(audit)
    if plan is None:
        cells, ladder = [finish() for finish in audit.place.ahead(prepared.begun(passive))], None
    else:
        cells, ladder = climb(audit, plan, passive)
    ceiling_images = ceiling()
    asked = {"attackers": list(prepared.attackers), "strategies": list(prepared.strategies)}
    differs = dict.fromkeys(("label_rule", "batch_statistics", *asked))
    return Report(
        settings={**audit.described(), **(asked if plan is None else differs), "prior_doubts": doubts},
        images=audit.clients.images,
        labels=audit.clients.labels,
        siblings=audit.clients.siblings,
        ceiling_images=ceiling_images,
        ceiling=scored(audit, ceiling_images),
        cells=cells,
        ladder=ladder,
        seconds=time.monotonic() - started,
    )
