"""What a GPU does with the product, in one run of less than eight minutes; every part prints as it ends.

    python benchmarks/speed/gpu.py [--quick] [--out FILE] [--only rates memory]
    python benchmarks/speed/gpu.py --device cpu --tiny      # the script itself, on any machine
    python benchmarks/speed/gpu.py --device cpu --only loop # the true shapes, a handful of evaluations

Weights are random, of the published shapes, and made at the start: nothing is fetched. BigGAN needs the extra
`biggan`. On a CPU rates say nothing. A part that fails says so in a line and does not keep the others from
running; then the exit code is 1. Tables are Markdown; --out writes the same as JSON.
"""

import argparse
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ggl.base.devices import find_device
from ggl.base.errors import GGLError, InputError
from ggl.benchmarks.speed.gpu_parts.bench import SIZES, Bench, Outcome
from ggl.benchmarks.speed.gpu_parts.equality import check_equality, repeatable
from ggl.benchmarks.speed.gpu_parts.halts import check_halts
from ggl.benchmarks.speed.gpu_parts.hours import count_hours
from ggl.benchmarks.speed.gpu_parts.loop import measure_image, measure_loop
from ggl.benchmarks.speed.gpu_parts.memory import provoke
from ggl.benchmarks.speed.gpu_parts.packed import measure_packed
from ggl.benchmarks.speed.gpu_parts.rates import measure_rates
from ggl.benchmarks.sweeps.execute import find_commit

PARTS: dict[str, Callable[[Bench], Outcome]] = {
    "equality": check_equality,
    "rates": measure_rates,
    "loop": measure_loop,
    "image": measure_image,
    "packed": measure_packed,
    "memory": provoke,
    "halts": check_halts,
    "hours": count_hours,
}

WHOLE = {"full": 470.0, "quick": 115.0}
"""Seconds within which a run ends: a part that would go beyond is broken off, those after it are left out."""

SLACK = 2.0
"""Times its own seconds that a part may take before it is broken off."""


class TooLongError(BaseException):
    """A part took longer than it may; nothing that catches errors catches it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run the parts and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="two minutes instead of eight, on a GPU")
    parser.add_argument("--tiny", action="store_true", help="the bundled prior and LeNet for all networks")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--out", type=Path, help="a JSON file of everything")
    options = parser.parse_args(arguments)
    repeatable()
    try:
        device = find_device(options.device)
        _check_place(options.out)
    except GGLError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2
    full = "quick" if options.quick else "full"
    name = "tiny" if options.tiny else "trial" if device.type == "cpu" else full
    found = about(device, name)
    print("\n".join(f"{what}: {value}" for what, value in found.items()), flush=True)
    results = run(Bench(device, SIZES[name]), options.only, WHOLE.get(name, float("inf")))
    if options.out is not None:
        options.out.write_text(json.dumps(found | {"parts": results}, indent=1) + "\n")
    return int(any(result["failures"] for result in results.values()))


def _check_place(file: Path | None) -> None:
    """Raise `InputError` before anything runs, where a file could not be written after it."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise InputError(f"--out {file}: expected a file in a folder that is there")


def about(device: torch.device, size: str) -> dict[str, str]:
    """Return what a table has to say of where it was made."""
    there = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU: rates say nothing of a GPU"
    return {"device": there, "torch": torch.__version__, "commit": find_commit() or "unknown", "size": size}


def run(bench: Bench, chosen: Sequence[str], whole: float) -> dict[str, dict[str, Any]]:
    """Run parts, print each as it ends, and return them as data."""
    began = time.monotonic()
    results: dict[str, dict[str, Any]] = {}
    for name in (part for part in PARTS if part in chosen):
        started = time.monotonic()
        left = whole - (started - began)
        bench.ends = started + min(bench.size.seconds[name], max(left, 0.0))
        outcome = _outcome(PARTS[name], bench, min(SLACK * bench.size.seconds[name], left))
        seconds = time.monotonic() - started
        print(f"\n## {name}, {seconds:.0f} s\n" + "\n".join(_lines(outcome)), flush=True)
        results[name] = {"seconds": seconds, **_data(outcome)}
    return results


def _outcome(part: Callable[[Bench], Outcome], bench: Bench, limit: float) -> Outcome:
    if limit <= 0:
        return Outcome(failures=["left out: the run's time was over"])
    try:
        with _at_most(limit):
            return part(bench)
    except (Exception, TooLongError) as error:  # noqa: BLE001  whatever a part raises, the others are run
        traceback.print_exc()
        return Outcome(failures=[f"{type(error).__name__}: {' '.join(str(error).split())}"])


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Break off what takes longer, wherever it is in Python."""
    if seconds == float("inf"):
        yield
        return

    def stop(*_: object) -> None:
        raise TooLongError(f"broken off after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _lines(outcome: Outcome) -> Iterator[str]:
    for table in outcome.tables:
        yield f"**{table.title}**\n"
        yield f"| {' | '.join(table.heads)} |\n|{'---|' * len(table.heads)}"
        yield from (f"| {' | '.join(map(_text, row))} |" for row in table.rows)
        yield ""
    yield from (f"- {note}" for note in outcome.notes)
    yield from (f"- FAILED: {failure}" for failure in outcome.failures)


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _data(outcome: Outcome) -> dict[str, Any]:
    tables = [
        {"title": t.title, "rows": [dict(zip(t.heads, row, strict=True)) for row in t.rows]}
        for t in outcome.tables
    ]
    return {"tables": tables, "notes": list(outcome.notes), "failures": list(outcome.failures)}


if __name__ == "__main__":
    sys.exit(main())
