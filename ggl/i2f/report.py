"""The influence function's predictions as figures: by defense, by class, and beside measured errors."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ggl.base.errors import InputError
from ggl.base.versions import versions
from ggl.i2f.forecast import Forecast, psnr_of
from ggl.i2f.problem import Influence
from ggl.measures.rank_correlation import rank_correlation
from ggl.measures.statistics import bootstrap_mean

__all__ = ["ALL", "Measured", "check_measured", "correlations", "read_measured", "rows_as_csv", "to_dict"]

Measured: TypeAlias = Mapping[tuple[str, int, int], float]
"""An attack's root mean squared errors by defense, image number and draw."""

COLUMNS = ("defense", "image", "draw", "rmse")
"""Of a CSV of measured errors; further ones are left alone."""

ALL = "all"
"""Stands among the rank correlations for that over all defenses together."""

PREDICTIONS = ("bound_rmse", "exact_rmse", "forecast_rmse")
"""What errors are predicted by."""

Array: TypeAlias = NDArray[np.float64]


def read_measured(path: Path) -> dict[tuple[str, int, int], float]:
    """Return an attack's errors from a CSV with the columns defense, image, draw and rmse.

    Raises:
        InputError: it cannot be read, lacks a column, or a row is no such figure or is there twice.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a CSV of measured errors that can be read: {error}") from error
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path}: expected the columns {', '.join(COLUMNS)}, found no {missing[0]!r}")
    found: dict[tuple[str, int, int], float] = {}
    for line, row in enumerate(reader, start=2):
        key, rmse = _measurement(path, line, row)
        if key in found:
            raise InputError(f"{path}, line {line}: {', '.join(map(str, key))} is there twice; leave one out")
        found[key] = rmse
    return found


def _measurement(path: Path, line: int, row: Mapping[str, str]) -> tuple[tuple[str, int, int], float]:
    try:
        key, rmse = (row["defense"], int(row["image"]), int(row["draw"])), float(row["rmse"])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}, line {line}: expected whole numbers for image and draw and a number for rmse; {error}"
        ) from error
    if not (rmse >= 0 and math.isfinite(rmse)):
        raise InputError(f"{path}, line {line}: expected an rmse of at least 0, found {rmse:g}")
    return key, rmse


def check_measured(measured: Measured, defenses: Sequence[str], images: int, draws: int) -> None:
    """Refuse an error that was measured of what is not predicted.

    Raises:
        InputError: there is one.
    """
    for defense, image, draw in measured:
        if defense not in defenses or not (0 <= image < images and 0 <= draw < draws):
            raise InputError(
                f"expected measured errors of what is predicted, found one of defense {defense}, "
                f"image {image}, draw {draw}: use the same defenses, images and draws"
            )


def to_dict(found: Sequence[Influence], measured: Measured, settings: Mapping[str, object]) -> dict[str, Any]:
    """Return the content of i2f.json: the same for the same seed on the same machine.

    Raises:
        InputError: an error was measured of what was not predicted.
    """
    check_measured(measured, [one.defense for one in found], *found[0].bound.shape)
    results = [_entry(one, measured) for one in found]
    return {
        "settings": dict(settings),
        "versions": versions(),
        "results": results,
        "correlation": correlations(results),
    }


def rows_as_csv(result: Mapping[str, Any]) -> str:
    """Return a row for every defense, image and draw of an i2f.json."""
    rows = [{"defense": e["defense"], **point} for e in result["results"] for point in e["rows"]]
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return content.getvalue()


def _entry(one: Influence, measured: Measured) -> dict[str, Any]:
    """Return a defense's figures. Means are over draws first: images are the sample."""
    return {
        "defense": one.defense,
        "points": one.bound.size,
        "converged": int(one.converged.sum()),
        "bound_rmse": _spread(one.bound_rmse.mean(1)),
        "exact_rmse": None if one.exact_rmse is None else _spread(one.exact_rmse.mean(1)),
        "noise_to_gradient": bootstrap_mean(one.delta_norm.mean(1) / one.gradient_norm).to_dict(),
        "forecast": None if one.forecast is None else _forecast(one.forecast),
        "classes": _classes(one),
        "rows": _rows(one, measured),
    }


def _forecast(one: Forecast) -> dict[str, Any]:
    """Return what an attacker with a prior is expected to reach; draws are averaged as mean squares."""
    mse, posterior = one.mse.mean(1), one.posterior.mean(1)
    return {
        "prior": one.prior,
        "rmse": _spread(np.sqrt(mse)),
        "psnr": _spread(psnr_of(mse)),
        "ceiling_rmse": _spread(np.sqrt(one.ceiling)),
        "ceiling_psnr": _spread(psnr_of(one.ceiling)),
        "posterior_rmse": _spread(np.sqrt(posterior)),
        "prior_rmse": _spread(np.sqrt(one.unknown)),
    }


def _spread(values: Array) -> dict[str, Any]:
    """Return the mean with its interval, the quartiles, and the ends, over images (n,)."""
    low, median, high = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    return {
        "mean": bootstrap_mean(values).to_dict(),
        "least": float(values.min()),
        "lower_quartile": low,
        "median": median,
        "upper_quartile": high,
        "most": float(values.max()),
    }


def _classes(one: Influence) -> list[dict[str, Any]]:
    """Return for each class its mean prediction with its interval, and that over the mean of all images."""
    predicted = one.rmse.mean(1)
    mean = predicted.mean()
    table = []
    for label in np.unique(one.labels):
        here = one.labels == label
        table.append(
            {
                "label": int(label),
                "images": int(here.sum()),
                "predicted_rmse": bootstrap_mean(predicted[here]).to_dict(),
                "ratio": float(predicted[here].mean() / mean) if mean > 0 else None,
            }
        )
    return table


def _rows(one: Influence, measured: Measured) -> list[dict[str, Any]]:
    exact = one.exact_rmse
    return [
        {
            "image": i,
            "draw": draw,
            "label": int(one.labels[i]),
            "bound_rmse": float(one.bound_rmse[i, draw]),
            "exact_rmse": None if exact is None else float(exact[i, draw]),
            **_forecast_row(one.forecast, i, draw),
            "measured_rmse": measured.get((one.defense, i, draw)),
            "product_norm": float(one.product_norm[i, draw]),
            "lambda_max": float(one.lambda_max[i]),
            "delta_norm": float(one.delta_norm[i, draw]),
            "gradient_norm": float(one.gradient_norm[i]),
            "residual": None if one.residual is None else float(one.residual[i, draw]),
            "converged": bool(one.converged[i, draw]),
        }
        for i, draw in np.ndindex(one.bound.shape)
    ]


def _forecast_row(one: Forecast | None, image: int, draw: int) -> dict[str, float | None]:
    if one is None:
        return dict.fromkeys(("forecast_rmse", "forecast_psnr", "ceiling_rmse", "posterior_rmse"))
    return {
        "forecast_rmse": float(one.rmse[image, draw]),
        "forecast_psnr": float(one.psnr[image, draw]),
        "ceiling_rmse": math.sqrt(one.ceiling[image]),
        "posterior_rmse": math.sqrt(one.posterior[image, draw]),
    }


def correlations(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return Spearman's ρ of each prediction and measured errors, over all defenses and for each alone."""
    groups = {entry["defense"]: entry["rows"] for entry in results}
    if len(results) > 1:
        groups = {ALL: [row for rows in groups.values() for row in rows], **groups}
    found: dict[str, dict[str, Any]] = {}
    for name, rows in groups.items():
        known = [row for row in rows if row["measured_rmse"] is not None]
        predictions = [key for key in PREDICTIONS if known and known[0][key] is not None]
        for key in predictions:
            columns = ([row[of] for row in known] for of in (key, "measured_rmse", "image"))
            found.setdefault(key, {})[name] = rank_correlation(*columns).to_dict()
    return found
