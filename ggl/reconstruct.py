"""Reconstruction without truth: what a captured update says, where nobody can compare it with the images.

No leak is claimed here. What can be said is how well the reconstruction's gradient matches the update, and
whether it does so better than what the same attack makes of updates that other images made.
"""

import copy
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.utils import save_image

from ggl.attack import LABEL_RULES, Target, attack_many
from ggl.audit_cells import Stage
from ggl.base.errors import InputError
from ggl.base.random import stream, stream_seed
from ggl.base.registry import unknown_name
from ggl.base.weights import write_atomically
from ggl.defenses import Client, Defense, load_defense
from ggl.generators import Prior
from ggl.gradients import GradientOracle, Gradients, LocalTraining
from ggl.gradients.oracle import check_gradient
from ggl.report import versions
from ggl.search import SearchResult, fingerprint
from ggl.statistics import Interval, bootstrap_mean
from ggl.templates import DISPLAY_SIDE, check_page, data_uri, fill

__all__ = ["CONTROLS", "Reconstruction", "reconstruct"]

CONTROLS = 6
"""Updates of other images that are attacked beside the captured one."""


@dataclass(frozen=True)
class Reconstruction:
    """What an attack makes of a captured update, beside what it makes of others' updates.

    Attributes:
        result: of the captured update.
        control_images: (m, b, c, h, w), what the attack makes of m updates of other images.
        match: the distance of the reconstruction's gradient to the captured update.
        control_matches: (m,), those of the controls' reconstructions to the captured update.
        own_matches: (m,), those of the controls' reconstructions to the updates they were made of.
    """

    settings: Mapping[str, object]
    result: SearchResult
    control_images: Float[Tensor, "m b c h w"]
    match: float
    control_matches: NDArray[np.float64]
    own_matches: NDArray[np.float64]
    seconds: float

    @property
    def gap(self) -> Interval:
        """By how much the reconstruction matches better than the controls', with an interval over these."""
        return bootstrap_mean(self.control_matches - self.match)

    @property
    def stands_out(self) -> bool:
        """Whether it matches the captured update better than every control does."""
        return bool((self.control_matches > self.match).all())

    @property
    def settings_doubtful(self) -> bool:
        """Whether every control is matched better by its own attack: the settings may not be the client's."""
        return bool((self.own_matches < self.match).all())

    def to_dict(self) -> dict[str, object]:
        """Return the content of `result.json`: the same for the same seed, `timing` apart."""
        return {
            "settings": dict(self.settings),
            "versions": versions(),
            "labels": self.result.labels.tolist(),
            "match": self.match,
            "control_matches": self.control_matches.tolist(),
            "own_matches": self.own_matches.tolist(),
            "control_gap": self.gap.to_dict(),
            "stands_out": self.stands_out,
            "settings_doubtful": self.settings_doubtful,
            "loss": self.result.loss,
            "evaluations": self.result.evaluations,
            "backward_passes": self.result.backward_passes,
            "timing": {"seconds": round(self.seconds, 2)},
        }

    def save(self, folder: str | Path, *, html: bool = True) -> dict[str, object]:
        """Write the images, `report.html` and, last, `result.json` into a folder; return the last.

        Raises:
            InputError: `html` without the packages of the extra `report`; nothing is written.
        """
        if html:
            check_page()
        folder, result = Path(folder), self.to_dict()
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(self.result.images):
            save_image(image, folder / "images" / f"reconstruction-{i:03d}.png")
        for k, images in enumerate(self.control_images):
            for i, image in enumerate(images):
                save_image(image, folder / "images" / f"control{k:02d}-{i:03d}.png")
        if html:
            write_atomically(folder / "report.html", self._page(result).encode())
        write_atomically(folder / "result.json", json.dumps(result, indent=1, allow_nan=False).encode())
        return result

    def _page(self, result: Mapping[str, object]) -> str:
        """Return the page; the same bytes for the same content."""
        pairs = zip(self.control_images, self.control_matches, self.own_matches, strict=True)
        rows = [
            ("the captured update", self.result.images, self.match, self.match),
            *((f"control {k}", images, match, own) for k, (images, match, own) in enumerate(pairs, 1)),
        ]
        made = [
            {"title": title, "match": match, "own": own, "images": [data_uri(image) for image in images]}
            for title, images, match, own in rows
        ]
        shown = {"rows": made, "side": DISPLAY_SIDE, "pixelated": self.result.images.shape[-1] < DISPLAY_SIDE}
        return fill("reconstruction.html.jinja", {**result, **shown})


@dataclass(frozen=True)
class _Attack:
    """How the captured update and the controls are attacked alike."""

    oracle: GradientOracle
    prior: Prior
    defense: Defense
    attacker: str
    strategy: str
    distance: str
    latents: str | None
    label_rule: str
    budget: int
    seed: int
    checkpoints: Path | None
    progress: Stage | None

    def run(self, title: str, targets: Sequence[Target]) -> list[SearchResult]:
        """Return what comes of targets that are attacked side by side."""
        report = self.progress
        place = self.checkpoints
        return attack_many(
            self.oracle,
            targets,
            prior=self.prior,
            strategy=self.strategy,
            defense=self.defense,
            attacker=self.attacker,
            distance=self.distance,
            latents=self.latents,
            label_rule=self.label_rule,
            budget=self.budget,
            seed=self.seed,
            checkpoint=None
            if place is None
            else place / f"{fingerprint({'stage': title}, [])[:16]}.safetensors",
            progress=None if report is None else lambda done, all_, loss: report(title, done, all_, loss),
        )

    @torch.no_grad()
    def match(self, result: SearchResult, shared: Gradients) -> float:
        """Return the distance of a reconstruction's gradient to a shared one, as the attacker compares."""
        view = self.defense.view(shared, self.attacker, self.oracle.model)
        trial = self.defense.trial(self.attacker)
        return float(self.oracle.score(result.images[None], result.labels, view, self.distance, trial))


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
    strategy: str = "cma-es",
    distance: str = "cosine",
    latents: str | None = None,
    local: LocalTraining | None = None,
    controls: int = CONTROLS,
    budget: int = 2000,
    seed: int = 0,
    backend: str = "auto",
    precision: str = "float32",
    round: int = 0,  # noqa: A002
    rounds: int = 10_000,
    checkpoints: Path | None = None,
    progress: Stage | None = None,
) -> Reconstruction:
    """Attack an update of unknown images, and, as controls, updates of known images with the same labels.

    Args:
        victim: the model before the update, in the mode that the client trained it in.
        shared: the update in units of gradients, as `ggl.captured` gives it.
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
        controls: how many other updates are attacked, at least 2.
        budget: objective evaluations of each search.
        seed: of every random draw.
        backend: of the gradient oracle.
        precision: of the gradient oracle.
        round: rounds of training before this one, for defenses that change over training.
        rounds: of training in all.
        checkpoints: a folder that lets a killed run resume with an identical result.
        progress: called after every generation.

    Raises:
        InputError: names, shapes or labels that do not fit, or a pool without enough images of a label.
        GradientError: the update is zero or not finite.
        CheckpointError: `checkpoints` holds those of another run.
    """
    started = time.monotonic()
    if controls < 2:
        raise InputError(f"expected at least 2 controls, found {controls}")
    known = load_defense(defense)
    rule = label_rule or ("inferred" if labels is None else "known")
    if rule not in LABEL_RULES:
        raise unknown_name("label rule", rule, list(LABEL_RULES))
    model = known.wrap(victim, seed)
    device = next((p.device for p in victim.parameters()), torch.device("cpu"))
    oracle = GradientOracle(
        copy.deepcopy(model).to(device), backend=backend, precision=precision, local=local
    )
    check_gradient(shared, "the captured update")
    attack = _Attack(
        oracle,
        prior,
        known,
        attacker,
        strategy,
        distance,
        latents,
        rule,
        budget,
        seed,
        checkpoints,
        progress,
    )
    (result,) = attack.run(
        "captured update", [Target("captured", shared, batch_size if labels is None else labels)]
    )
    batches = _control_batches(result.labels, pool, controls, seed)
    clients = [
        Client(oracle, images, result.labels, stream_seed(seed, "client noise", "control", k), round, rounds)
        for k, images in enumerate(batches)
    ]
    updates = [known.share(c, stream(seed, "client", "control", k)) for k, c in enumerate(clients)]
    others = attack.run(
        "controls", [Target(f"control {k}", update, result.labels) for k, update in enumerate(updates)]
    )
    return Reconstruction(
        settings=_settings(attack, victim, result, local, controls),
        result=result,
        control_images=torch.stack([other.images for other in others]),
        match=attack.match(result, shared),
        control_matches=np.array([attack.match(other, shared) for other in others]),
        own_matches=np.array([attack.match(o, update) for o, update in zip(others, updates, strict=True)]),
        seconds=time.monotonic() - started,
    )


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
    return {
        "victim": type(victim).__name__,
        "victim_mode": "train" if victim.training else "eval",
        "prior": attack.prior.name,
        "batch_size": len(result.labels),
        "label_rule": attack.label_rule,
        "defense": attack.defense.name,
        "attacker": attack.attacker,
        "strategy": attack.strategy,
        "distance": attack.distance,
        "latents": attack.latents or attack.prior.latents,
        "local_training": None if local is None else asdict(local),
        "controls": controls,
        "budget": attack.budget,
        "seed": attack.seed,
        "backend": attack.oracle.backend,
        "precision": attack.oracle.precision,
        "device": str(attack.oracle.device),
    }
