"""Evaluations a second of the true shapes by population, precision, format and launch, beside the limit."""

from collections.abc import Sequence

from torch import Tensor

from ggl.benchmarks.speed.gpu_parts.bench import Bench, Case, Outcome, Table
from ggl.benchmarks.speed.gpu_parts.timing import medians, peak_gib
from ggl.benchmarks.speed.gpu_parts.variants import Variant, make_limit, make_score, variants_of

__all__ = ["GOAL", "SHARE", "measure_rates"]

GOAL, SHARE = 330, 0.6
"""Evaluations a second that are wanted of BigGAN-deep-256, and the share of the plain pass."""

TOLERANCE = {"float32": 1e-3, "tf32": 0.05, "bf16": 0.1, "bf16, generator too": 0.2}
"""Largest difference of losses, cosine distances in [0, 2], from those in float32: what rounding explains."""

COMPILING = 60
"""Seconds that `torch.compile` may take: it is left out where there are fewer."""

HEADS = (
    *("networks", "P", "precision", "weights", "launch", "evaluations / s", "plain pass / s"),
    *("share of plain", "largest difference from float32", "peak GiB"),
)


def measure_rates(bench: Bench) -> Outcome:
    """Measure every variant of both cases, product and limit in turn."""
    rows, notes, failures = [], [], []
    cases = (bench.small,) if bench.size.tiny else (bench.imagenet, bench.faces)
    variants = variants_of(bench)
    for place, case in enumerate(cases):
        exact: dict[int, Tensor] = {}
        until = bench.left() * (len(cases) - place - 1) / (len(cases) - place)
        for number, variant in enumerate(variants):
            seconds = (bench.left() - until) / (len(variants) - number)
            what = f"{case.name}, {variant}"
            if seconds <= 0 or (variant.launch == "torch.compile" and bench.left() - until < COMPILING):
                notes.append(f"left out for want of time: {what}")
                continue
            try:
                row, losses = _measured(bench, case, variant, seconds / 2)
            except Exception as error:  # noqa: BLE001  one way that fails is said, the others are measured
                failures.append(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
                continue
            difference = float((losses - exact.setdefault(variant.population, losses)).abs().max())
            rows.append((*row[:8], difference, row[8]))
            if not difference <= TOLERANCE[variant.precision]:
                failures.append(f"{what}: losses differ by {difference:.2g} from those in float32")
    if bench.on_gpu and not bench.size.tiny:
        notes += _judged(bench, rows)
    return Outcome([Table("Evaluations a second", HEADS, rows)], notes, failures)


def _measured(
    bench: Bench, case: Case, variant: Variant, seconds: float
) -> tuple[tuple[str, int, str, str, str, float, float, float, float | None], Tensor]:
    with variant.rounding():
        score, limit = make_score(case, variant), make_limit(case, variant)
        losses = score().float().cpu()
        peak = peak_gib(score, bench.device)
        calls = {"ours": score, "plain": limit}
        took = medians(calls, bench.device, seconds=seconds, rounds=bench.size.rounds)
    ours, plain = variant.population / took["ours"], variant.population / took["plain"]
    how = variant.precision, variant.formats, variant.launch
    return (case.name, variant.population, *how, ours, plain, ours / plain, peak), losses


def _judged(bench: Bench, rows: Sequence[tuple[object, ...]]) -> list[str]:
    """Return whether what was wanted of BigGAN-deep-256 is reached."""
    own = [row for row in rows if row[0] == bench.imagenet.name]
    if not own:
        return ["nothing was measured of BigGAN-deep-256"]
    rate, share = max(float(str(row[5])) for row in own), max(float(str(row[7])) for row in own)
    return [
        f"wanted {GOAL} evaluations a second of {bench.imagenet.name}: {rate:.0f}, "
        f"{'reached' if rate >= GOAL else 'NOT reached'}",
        f"wanted {SHARE:.0%} of the plain pass: at best {share:.0%}, "
        f"{'reached' if share >= SHARE else 'NOT reached'}",
    ]
