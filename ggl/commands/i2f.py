"""Influence runs as the command line does them: inputs checked first, progress shown, three files."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from ggl.base.counting import Count
from ggl.base.devices import find_device
from ggl.base.errors import InputError
from ggl.base.files import write_atomically
from ggl.commands.audit_inputs import check_classes
from ggl.commands.build_victim import VictimPlan, build_victim, check_labels
from ggl.commands.console import LOG_WIDTH, count_bars, summary_table
from ggl.commands.folders import check_folder
from ggl.commands.square_images import load_square
from ggl.commands.weight_options import identity_of, weights_argument
from ggl.datasets.loading import Dataset, load_dataset
from ggl.datasets.picking import pick_private
from ggl.defenses import load_defense
from ggl.generators import Prior, load_prior
from ggl.i2f.forecast import CEILING_BUDGET
from ggl.i2f.influence import influences
from ggl.i2f.linearity import linearity_power, nonlinearity_note
from ggl.i2f.measured import PixelAttack, measured_errors
from ggl.i2f.page import render
from ggl.i2f.perturbations import Draws
from ggl.i2f.report import Measured, check_measured, read_measured, rows_as_csv, to_dict
from ggl.pages.templates import check_page

__all__ = ["I2FPlan", "run_i2f"]

RESULT, TABLE, PAGE = "i2f.json", "i2f.csv", "i2f.html"

HEADINGS = ("defense", "predicted RMSE", "lower bound", "least safe class", "safest class", "converged")
LEGEND = """\
predicted RMSE: of a perfect attacker, over pixels in [0, 1], to first order; 95 % intervals over images
classes: their mean prediction over that of all images; far from 1 is unequal protection"""

FORECAST_HEADINGS = ("defense", "PSNR", "at most", "RMSE", "of it the prior's", "the gradient's")
FORECAST_LEGEND = """\
PSNR, RMSE: of the image that an attacker with this prior is expected to find at best; means over images
at most, of it the prior's: of the image that the prior shows best, whatever the gradient says
the gradient's: what the shared gradient leaves open among the prior's images; an image's squares add up"""


@dataclass(frozen=True)
class I2FPlan:
    """Everything that `ggl i2f` was asked for; names as on the command line.

    Attributes:
        exact: whether the exact influence is solved for; the bound alone costs far less.
        measured: a CSV of an attack's errors with the columns defense, image, draw and rmse, images
            numbered as here; None for none.
        attack: on pixels, which measures errors too; None for none.
        prior: of an attacker who owns one, for whom a forecast is made too; None for none.
        ceiling_budget: evaluations of each private image's own inversion.
    """

    victim: str
    data: str
    defenses: tuple[str, ...]
    out: Path
    victim_weights: str | Path | None = None
    num_classes: int | None = None
    split: str = "test"
    images: int = 20
    draws: int = 1
    damping: float | None = None
    exact: bool = True
    seed: int = 0
    device: str = "auto"
    measured: Path | None = None
    attack: PixelAttack | None = None
    attack_evaluations: int = 200
    round: int = 0
    rounds: int = 10_000
    fit: str | None = None
    image_size: int | None = None
    prior: str | None = None
    ceiling_budget: int = CEILING_BUDGET

    @property
    def drawn(self) -> Draws:
        """The draws of every defense's own randomness."""
        return Draws(self.draws, self.seed, self.round, self.rounds)


def run_i2f(plan: I2FPlan) -> dict[str, Any]:
    """Predict errors under every defense, save them in the plan's folder, and print a table.

    Other results may lie in that folder already; an earlier i2f.json is not replaced.

    Args:
        plan: what to predict.

    Returns:
        The content of i2f.json.

    Raises:
        InputError: anything that does not fit, before anything is written.
        GradientError: a gradient that is zero, not finite, or does not depend on the image.
    """
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)
    check_folder(plan.out)
    if (plan.out / RESULT).exists():
        raise InputError(f"{plan.out}: holds {RESULT} already; choose another folder")
    check_page()
    names = [load_defense(defense).name for defense in plan.defenses]
    if len(set(names)) < len(names) or not names:
        raise InputError(f"expected one defense or more, each once; found {', '.join(names) or 'none'}")
    if plan.prior is not None and plan.attack is not None:
        raise InputError(
            f"--attack {plan.attack} searches pixels and has no prior: leave it or --prior out; errors of an "
            "attack with the prior are set beside its forecast by --measured"
        )
    measured = {} if plan.measured is None else read_measured(plan.measured)
    check_measured(measured, names, plan.images, plan.draws)
    result = _predict(plan, measured, console)
    page = render(result)
    plan.out.mkdir(parents=True, exist_ok=True)
    write_atomically(plan.out / TABLE, rows_as_csv(result).encode())
    write_atomically(plan.out / PAGE, page.encode())
    write_atomically(plan.out / RESULT, json.dumps(result, indent=1, allow_nan=False).encode())
    _print(result, plan, console)
    return result


def _predict(plan: I2FPlan, measured: Measured, console: Console) -> dict[str, Any]:
    device = find_device(plan.device)
    prior = None if plan.prior is None else load_prior(plan.prior)
    data = _images(plan, prior)
    notes: list[str] = []
    victim, classes = _victim(plan, data, prior, notes.append)
    for note in notes:
        console.print(note, markup=False)
    victim = victim.to(device)
    chosen = pick_private(data.labels, plan.images, plan.seed)
    images, labels = data.images[chosen], data.labels[chosen]
    power = linearity_power(victim, images, labels)
    with count_bars(console) as stage:
        found = influences(
            victim,
            images,
            labels,
            plan.defenses,
            plan.drawn,
            damping=plan.damping,
            exact=plan.exact,
            prior=None if prior is None else prior.to(device),
            ceiling_budget=plan.ceiling_budget,
            progress=stage,
        )
    if plan.attack is not None:
        with count_bars(console) as stage:
            for one in found:
                errors = _attack(plan, plan.attack, victim, images, labels, one.defense, stage)
                measured = {**measured, **errors}
    settings = _settings(plan, device, found[0].damping)
    settings |= {"num_classes": classes, "weights_read": notes, "linearity_power": power}
    return to_dict(found, measured, settings)


def _attack(
    plan: I2FPlan,
    attack: PixelAttack,
    victim: nn.Module,
    images: Tensor,
    labels: Tensor,
    defense: str,
    stage: Count,
) -> Measured:
    """Return an attack's errors on what one defense leaves of the same gradients."""
    return measured_errors(
        victim,
        images,
        labels,
        defense,
        plan.drawn,
        attack=attack,
        evaluations=plan.attack_evaluations,
        progress=lambda done, planned: stage(f"attack, {defense}", done, planned),
    )


def _images(plan: I2FPlan, prior: Prior | None) -> Dataset:
    """Return the images, of the prior's shape where there is one."""
    if prior is None:
        return load_square(plan.data, plan.split, plan.fit, plan.image_size)
    if plan.image_size is not None:
        raise InputError(
            f"--image-size: with --prior images have its shape {prior.image_shape}; leave it out"
        )
    data = load_dataset(plan.data, image_shape=prior.image_shape, fit=plan.fit, split=plan.split)
    check_classes(data, prior)
    return data


def _victim(
    plan: I2FPlan, data: Dataset, prior: Prior | None, say: Callable[[str], None]
) -> tuple[nn.Module, int]:
    channels, size, _ = data.images.shape[1:]
    weights = plan.victim_weights
    given = None if weights is None else weights_argument("--victim-weights", weights)
    shape = (channels, size, size)
    usual = (prior.num_classes if prior is not None else None) or data.num_classes
    asked = VictimPlan(plan.victim, shape, plan.num_classes, usual, given, plan.seed)
    victim, classes = build_victim(asked, say)
    check_labels(plan.data, data.labels, classes)
    return victim, classes


def _settings(plan: I2FPlan, device: object, damping: float) -> dict[str, object]:
    return {
        "victim": plan.victim,
        "victim_mode": "eval",
        "victim_weights": identity_of("--victim-weights", plan.victim_weights),
        "data": plan.data,
        "split": plan.split,
        "fit": plan.fit,
        "image_size": plan.image_size,
        "images": plan.images,
        "draws": plan.draws,
        "damping": damping,
        "exact": plan.exact,
        "prior": plan.prior,
        "ceiling_budget": None if plan.prior is None else plan.ceiling_budget,
        "attack": plan.attack,
        "attack_evaluations": None if plan.attack is None else plan.attack_evaluations,
        "seed": plan.seed,
        "round": plan.round,
        "rounds": plan.rounds,
        "device": str(device),
    }


def _print(result: Mapping[str, Any], plan: I2FPlan, console: Console) -> None:
    title = f"{plan.victim}, {plan.data}, {plan.images} images, damping {result['settings']['damping']:g}"
    console.print(summary_table(title, HEADINGS, [_row(entry) for entry in result["results"]]))
    console.print(LEGEND)
    if plan.prior is not None:
        title = f"an attacker with {plan.prior}: forecast, no attack was run"
        rows = [_forecast_row(entry) for entry in result["results"]]
        console.print(summary_table(title, FORECAST_HEADINGS, rows))
        console.print(FORECAST_LEGEND)
    doubt = nonlinearity_note(result["settings"]["linearity_power"])
    if doubt is not None:
        console.print(f"beware: {doubt}")
    for prediction, by_defense in result["correlation"].items():
        for name, rho in by_defense.items():
            what = f"{prediction.removesuffix('_rmse')}, {name}"
            console.print(f"rank correlation with measured errors, {what}: {_interval(rho, '.2f')}")
    console.print(f"report: {plan.out / PAGE}", soft_wrap=True)


def _row(entry: Mapping[str, Any]) -> list[str]:
    classes = sorted((c for c in entry["classes"] if c["ratio"] is not None), key=lambda c: c["ratio"])
    ends = [f"{c['label']} ({c['ratio']:.2f})" for c in (classes[0], classes[-1])] if classes else ["", ""]
    exact = entry["exact_rmse"]
    return [
        entry["defense"],
        "not solved for" if exact is None else _interval(exact["mean"], ".3g"),
        _interval(entry["bound_rmse"]["mean"], ".3g"),
        *ends,
        f"{entry['converged']} of {entry['points']}",
    ]


def _forecast_row(entry: Mapping[str, Any]) -> list[str]:
    forecast = entry["forecast"]
    psnr = (f"{_interval(forecast[key]['mean'], '.1f')} dB" for key in ("psnr", "ceiling_psnr"))
    rmse = (f"{forecast[key]['mean']['mean']:.3g}" for key in ("rmse", "ceiling_rmse", "posterior_rmse"))
    return [entry["defense"], *psnr, *rmse]


def _interval(values: Mapping[str, float | None], form: str) -> str:
    """Return a figure with its interval; the figure alone where one image gives none."""
    if values["mean"] is None:
        return "undefined"
    if values["low"] is None or values["high"] is None:
        return f"{values['mean']:{form}}"
    return f"{values['mean']:{form}} [{values['low']:{form}}, {values['high']:{form}}]"
