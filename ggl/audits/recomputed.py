"""Whether an audit's figures agree with each other, as far as its `result.json` tells."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from ggl.audits.people import worst_people
from ggl.audits.verdicts import Verdict, corrected_verdict, find_verdict, judged, worst_case
from ggl.measures.leakage import HEADLINE, LeakScore, Scores, identification, identifies
from ggl.measures.many_looks import Correction
from ggl.measures.metrics import METRICS
from ggl.measures.statistics import Interval, bootstrap_mean

__all__ = ["contradictions", "is_close", "unlike"]

Json: TypeAlias = Mapping[str, Any]

ROUNDING = 1e-9
"""Relative difference of two ways to compute one figure."""

RESAMPLING = 0.25
"""Of an interval's width, by which the bounds may differ where other versions resample."""


def contradictions(result: Json, *, same_versions: bool = True) -> Iterator[str]:
    """Yield a line for every figure of an audit that is not what others make it, by its path.

    From the images' errors and ranks follow every mean, rate, interval and identification of an attack; from
    the means of attack, controls and ceiling the strongest control and the leak score; from its bounds and
    its p-value the verdict; from the cells the worst case. What cannot be computed anew: the bounds and
    p-value of a leak score and the figures of controls and ceiling, whose images' errors are not kept.

    Args:
        result: the content of an audit's `result.json`.
        same_versions: whether intervals were computed by the versions that are here.
    """
    for k, cell in enumerate(result["results"]):
        path = f"results[{k}]"
        alone = result["ladder"] is not None and cell["psnr"]["n"] == len(cell["images"])
        scores = _scores(cell, 1 if alone else result["settings"]["batch_size"])
        means = {name: bootstrap_mean(scores.by_client(name)) for name in scores.values}
        found = {**identification(scores), **means}
        for name, interval in found.items():
            yield from unlike(f"{path}.{name}", cell[name], interval, same_versions=same_versions)
        if cell["verdict"] == "withheld":
            yield from _withheld(path, cell)
            continue
        for name, leak in cell["leak_scores"].items():
            yield from _leak(f"{path}.leak_scores.{name}", leak, name, cell, result["ceiling"])
        if cell["leak_score"] != cell["leak_scores"][HEADLINE]:
            yield f"{path}.leak_score: expected that of {HEADLINE}, found another"
        headline = _leak_score(cell["leak_score"])
        verdict = find_verdict(headline, scores)
        yield from _said(path, cell, headline.leaks, identifies(scores), verdict)
        for where in (f"{path}.corrected", f"{path}.corrected.table"):
            corrected = cell["corrected"]["table"] if where.endswith("table") else cell["corrected"]
            looked = Correction(
                corrected["looks"], _leak_score(corrected), corrected["identification_p_value"]
            )
            verdict = corrected_verdict(looked, scores)
            yield from _said(where, corrected, looked.leaks, looked.identifies, verdict)
    worst = worst_case(result["results"])
    if len(worst) != len(result["worst_case"]):
        yield f"worst_case: expected {len(worst)} defenses, found {len(result['worst_case'])}"
    for k, (strongest, row) in enumerate(zip(worst, result["worst_case"], strict=False)):
        for key, value in strongest.items():
            if row[key] != value:
                yield f"worst_case[{k}].{key}: expected that of {strongest['defense']}'s strongest cell"
        own = [cell for cell in judged(result["results"]) if cell["defense"] == strongest["defense"]]
        if row["people"] != worst_people(own):
            yield f"worst_case[{k}].people: expected what {strongest['defense']}'s cells say, found another"
    images, counts = result["settings"]["images"], {len(cell["images"]) for cell in result["results"]}
    if counts != {images}:
        yield f"settings.images: expected as many as cells have, {sorted(counts)}, found {images}"


def _said(path: str, said: Json, leaks: bool, identified: bool, verdict: Verdict) -> Iterator[str]:
    for key, expected in (("leaks", leaks), ("identifies", identified), ("verdict", verdict)):
        if said[key] != expected:
            yield f"{path}.{key}: expected {expected!r} of its figures, found {said[key]!r}"


def unlike(path: str, found: Json, expected: Interval, *, same_versions: bool = True) -> Iterator[str]:
    """Yield a line where an interval of a result is not the one that was computed anew."""
    width = expected.high - expected.low
    slack = 0.0 if same_versions or math.isnan(width) else RESAMPLING * width
    for key, value in expected.to_dict().items():
        allowed = slack if key in ("low", "high") else 0.0
        if not is_close(found[key], value, allowed):
            yield f"{path}.{key}: expected {value}, found {found[key]}"


def is_close(a: float | int | None, b: float | int | None, allowed: float = 0.0) -> bool:
    """Say whether two figures are one but for rounding and what is allowed; None is itself alone."""
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=ROUNDING, abs_tol=allowed + ROUNDING)


def _scores(cell: Json, batch: int) -> Scores:
    """Return an attack's scores from what is said of every image."""
    images = cell["images"]
    values = {name: np.array([float(i[name]) for i in images]) for name in METRICS if name in images[0]}
    ranks, decoys = (np.array([int(image[key]) for image in images]) for key in ("rank", "decoys"))
    return Scores(values, ranks, decoys, batch)


def _leak_score(leak: Json) -> LeakScore:
    mean, low, high = (math.nan if leak[key] is None else leak[key] for key in ("mean", "low", "high"))
    unknown = np.empty(0)
    interval = Interval(mean, low, high, leak["n"])
    return LeakScore(interval, leak["control"], leak["p_value"], gains=unknown, room=unknown)


def _leak(path: str, leak: Json, metric: str, cell: Json, ceiling: Json) -> Iterator[str]:
    """Yield where a leak score is not the ratio of its means, its control not the strongest."""
    means = {name: control[metric]["mean"] for name, control in cell["controls"].items()}
    control = min(means, key=means.__getitem__)
    if leak["control"] != control:
        yield f"{path}.control: expected {control!r}, of least mean error, found {leak['control']!r}"
        return
    room = means[control] - ceiling[metric]["mean"]
    expected = (means[control] - cell[metric]["mean"]) / room if room > 0 else None
    if not is_close(leak["mean"], expected, 1e-6):
        yield f"{path}.mean: expected {expected} of the means behind it, found {leak['mean']}"
    if leak["low"] is not None and not leak["low"] <= leak["mean"] <= leak["high"]:
        yield f"{path}: expected {leak['mean']} within its interval, found {leak['low']} to {leak['high']}"


def _withheld(path: str, cell: Json) -> Iterator[str]:
    said = [cell["leaks"], cell["identifies"], cell["leak_score"]["mean"]]
    said += [leak["mean"] for leak in cell["leak_scores"].values()]
    if any(value is not None for value in said):
        yield f"{path}: expected no scores where they are withheld"
