"""What an audit found: cells, figures, verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ggl.attacks.course import SearchResult, courses
from ggl.audits.allowances import CellAllowance
from ggl.audits.ladder_findings import Ladder
from ggl.audits.people import people_of, worst_people
from ggl.audits.truth import TruthCheck
from ggl.audits.verdicts import corrections, find_verdict, judged, withheld_correction, worst_case
from ggl.base.versions import versions
from ggl.costs.utility_file import costs_of
from ggl.measures.leakage import HEADLINE, LeakScore, Scores, identification, identifies, leak_score
from ggl.measures.many_looks import Look
from ggl.measures.metrics import METRICS
from ggl.measures.statistics import Interval, bootstrap_mean, finite_or_none, share, share_of_clusters

__all__ = ["AuditCell", "Findings", "cell_rate"]


@dataclass(frozen=True)
class AuditCell:
    """One defense under one attacker and one strategy.

    Attributes:
        attack: the attack's scores; `controls` those of sibling, noise, prior and class mean.
        images: the reconstructions (n, c, h, w) of "private", "sibling" and "noise".
        label_accuracy: of each client, the share of its labels that are read off its defended gradient, or
            that a search for them found; NaN where they can't be read under the clients' loss.
        matches: distances (clients,) to the shared gradients as the attacker compares them, of the gradients
            on the "private" images themselves and on the "attack"'s reconstructions, without the penalty.
        results: the searches behind `images`, one a client.
        seconds: of computing by one thread, those of all processes added up.
        distance: what the losses are, where it is not the audit's own.
        guarantee: what the defense's proof allows any attacker.
        passes: through the victim for one evaluation: more than one where an attacker averages noise draws.
        alike: other attackers who compare the same and try alike: they would find the same.
        rung: its number on a ladder, and `kind` what it is there, "realistic" or "diagnostic".
    """

    defense: str
    strategy: str
    attacker: str
    attack: Scores
    controls: Mapping[str, Scores]
    images: Mapping[str, Float[Tensor, "n c h w"]]
    label_accuracy: Sequence[float]
    matches: Mapping[str, NDArray[np.float64]]
    results: Mapping[str, Sequence[SearchResult]]
    seconds: float
    passes: int = 1
    distance: str | None = None
    guarantee: CellAllowance | None = None
    rung: int | None = None
    kind: str | None = None
    alike: Sequence[str] = ()

    def leak(self, scores: Scores, ceiling: Scores, metric: str) -> LeakScore:
        """Return the leak score of the attack's or a control's scores, by one error metric."""
        controls = {name: control.by_client(metric) for name, control in self.controls.items()}
        return leak_score(scores.by_client(metric), scores.per_client(ceiling.values[metric]), controls)

    def look(self, ceiling: Scores) -> Look:
        """Return what the corrections for many cells need of this one."""
        leak, attack = self.leak(self.attack, ceiling, HEADLINE), self.attack
        alone = attack.batch < ceiling.batch  # image by image: no client's gradient, and as if independent
        return Look(leak, attack, [("image" if alone else "client", k) for k in range(attack.clients)])

    def curve(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return evaluations and the mean best loss of the attacks on the private images.

        It begins where every attack has met a finite loss.
        """
        evaluations, losses = courses(self.results["private"])
        mean = losses.mean(axis=0)
        finite = np.isfinite(mean)
        return evaluations[finite], mean[finite]

    def label_recovery(self) -> Interval:
        """Return the share of labels that are recovered; NaN where they can't be read."""
        if np.isnan(self.label_accuracy).any():
            return Interval(np.nan, np.nan, np.nan, len(self.label_accuracy))
        if self.attack.batch == 1:
            return share(round(sum(self.label_accuracy)), len(self.label_accuracy))
        return share_of_clusters(self.label_accuracy)

    def to_dict(
        self, ceiling: Scores, labels: Sequence[int], groups: Sequence[str] | None = None
    ) -> dict[str, object]:
        """Return every figure of the cell."""
        errors = [name for name in self.attack.values if METRICS[name].lower_is_better]
        leaks = {name: self.leak(self.attack, ceiling, name) for name in errors}
        evaluations, losses = self.curve()
        return {
            **({} if self.rung is None else {"rung": self.rung, "kind": self.kind}),
            "defense": self.defense,
            "strategy": self.strategy,
            "attacker": self.attacker,
            "attackers_alike": list(self.alike),
            "verdict": find_verdict(leaks[HEADLINE], self.attack),
            "leaks": leaks[HEADLINE].leaks,
            "identifies": identifies(self.attack),
            "leak_score_metric": HEADLINE,
            "leak_score": leaks[HEADLINE].to_dict(),
            "leak_scores": {name: leak.to_dict() for name, leak in leaks.items()},
            **_figures(self.attack),
            "controls": {
                name: {"leak_score": self.leak(scores, ceiling, HEADLINE).to_dict(), **_figures(scores)}
                for name, scores in self.controls.items()
            },
            "guarantee": None if self.guarantee is None else self.guarantee.to_dict(self.attack),
            "people": people_of(self.attack, self.controls, leaks[HEADLINE].control, ceiling, labels, groups),
            "label_recovery": self.label_recovery().to_dict(),
            "evaluations": self.results["private"][0].evaluations,
            "passes_per_evaluation": self.passes,
            "backward_passes": self.results["private"][0].backward_passes,
            "images": _per_image(self.attack, self.results["private"], self.matches, labels),
            "curve": {"evaluations": evaluations.tolist(), "loss": losses.tolist()},
        }


@dataclass(frozen=True)
class Findings:
    """An audit's cells, with the private images (n, c, h, w), their labels (n,) and the ceiling.

    Attributes:
        siblings: (n, c, h, w), the other images of their classes that the sibling control attacks.
        utility: what utility.json of `ggl utility` holds; see `Report.with_utility`.
        truth: whether the images make the updates that were captured, None where these are simulated.
        forced: whether leak scores are given where they do not.
        groups: (n,), what the images have beside their labels; see `Report.with_groups`.
        ladder: on whose rungs the cells stand, None without one.
    """

    settings: Mapping[str, object]
    images: Float[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]
    siblings: Float[Tensor, "n c h w"]
    ceiling_images: Float[Tensor, "n c h w"]
    ceiling: Scores
    cells: Sequence[AuditCell]
    seconds: float
    utility: Mapping[str, object] | None = None
    truth: TruthCheck | None = None
    forced: bool = False
    groups: Sequence[str] | None = None
    ladder: Ladder | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the content of `result.json`: the same for the same seed, `timing` apart."""
        labels = self.labels.tolist()
        doubtful = self.truth is not None and self.truth.verdict == "doubtful"
        withheld = doubtful and not self.forced
        looks = [(cell.defense, cell.look(self.ceiling)) for cell in self.cells]
        results = [
            {**cell.to_dict(self.ceiling, labels, self.groups), "corrected": corrected}
            for cell, corrected in zip(self.cells, corrections(looks), strict=True)
        ]
        results = [_without_scores(cell) for cell in results] if withheld else results
        worst = [
            {
                **entry,
                "people": worst_people([c for c in judged(results) if c["defense"] == entry["defense"]]),
            }
            for entry in worst_case(results)
        ]
        audited = [str(entry["defense"]) for entry in worst]
        return {
            "settings": dict(self.settings),
            "versions": versions(),
            "truth": None if self.truth is None else {**self.truth.to_dict(), "scores_withheld": withheld},
            "ceiling": _figures(self.ceiling),
            "worst_case": worst,
            "ladder": None if self.ladder is None else self.ladder.to_dict(results),
            "utility": None if self.utility is None else costs_of(self.utility, audited),
            "results": results,
            "timing": {
                "seconds": round(self.seconds, 2),
                "cells": [round(cell.seconds, 2) for cell in self.cells],
                "evaluations_per_second": [round(cell_rate(cell), 1) for cell in self.cells],
            },
        }

    def image_sets(self) -> dict[str, Tensor]:
        """Return every picture by the name that its files begin with."""
        sets = {"private": self.images, "ceiling": self.ceiling_images}
        for k, cell in enumerate(self.cells):
            sets |= {
                f"cell{k:02d}-{'attack' if kind == 'private' else kind}": images
                for kind, images in cell.images.items()
            }
        return sets


def _without_scores(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell of `AuditCell.to_dict` with nothing said of a leak: the errors are of wrong images."""

    def emptied(score: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value if key in ("n", "control") else None for key, value in score.items()}

    return {
        **cell,
        "verdict": "withheld",
        "corrected": withheld_correction(cell["corrected"]),
        "leaks": None,
        "identifies": None,
        "people": None,
        "leak_score": emptied(cell["leak_score"]),
        "leak_scores": {name: emptied(score) for name, score in cell["leak_scores"].items()},
        "controls": {
            name: {**control, "leak_score": emptied(control["leak_score"])}
            for name, control in cell["controls"].items()
        },
    }


def cell_rate(cell: AuditCell) -> float:
    """Return objective evaluations per second of one process, controls included."""
    done = sum(result.evaluations for results in cell.results.values() for result in results)
    return done / max(cell.seconds, 1e-9)


def _figures(scores: Scores) -> dict[str, object]:
    found = {name: interval.to_dict() for name, interval in identification(scores).items()}
    return {**found, **{name: bootstrap_mean(scores.by_client(name)).to_dict() for name in scores.values}}


def _per_image(
    scores: Scores,
    results: Sequence[SearchResult],
    matches: Mapping[str, NDArray[np.float64]],
    labels: Sequence[int],
) -> list[dict[str, float | int | None]]:
    owners = [k for k in range(len(results)) for _ in range(scores.batch)]
    return [
        {
            "label": labels[i],
            "loss": results[k].loss,
            **{f"match_of_{kind}": finite_or_none(match[k]) for kind, match in matches.items()},
            "rank": int(scores.ranks[i]),
            "decoys": int(scores.decoys[i]),
            **{name: float(values[i]) for name, values in scores.values.items()},
        }
        for i, k in enumerate(owners)
    ]
