"""What processes gain an audit: `ggl audit` of this checkout against that of an older one, in turn.

    git worktree add OLD COMMIT
    python benchmarks/speed/audits.py --old OLD [--case lenet-1 ...] [--repeats 3] [--busy] [--runs FILE]

Each run is the command as a user types it, in seconds from its start to its end: loading, ceiling, cells,
scoring and the page. The older checkout runs with torch's own number of threads, this one with its own number
of workers; both with the environment's Python. `--busy`: beside one process that computes without end.
Runs are added to a file, lines of JSON, whose medians make the table: a case at a time can be measured.
This checkout's results must be equal in every run of a case, by one worker (run once) and by all;
of the older one's, which rounds otherwise, the largest change of a mean leak score is shown.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

LENET = "--victim lenet --images 10"
CASES: dict[str, str] = {
    "lenet-tiny": "--victim lenet --images 2 --budget 64 --ceiling-budget 64",
    "lenet-short": "--victim lenet --images 4 --budget 300 --ceiling-budget 300",
    "lenet-1": f"{LENET} --budget 1000",
    "lenet-2": f"{LENET} --budget 500 --ceiling-budget 1000 --defense none --defense prune:0.9",
    "lenet-4": f"{LENET} --budget 250 --ceiling-budget 1000 --defense none --defense prune:0.9 "
    "--defense noise:0.1 --attacker naive --attacker adaptive",
    "resnet18-1": "--victim resnet18 --images 3 --budget 130 --ceiling-budget 200",
}
"""Options of `ggl audit`, by the victim and the number of cells; a tiny and a short one."""

HERE = Path(__file__).parents[2]
BUSY = "while True: pass"


def run(case: str, checkout: Path, *more: str) -> tuple[float, dict[str, Any]]:
    """Run an audit by a checkout's code; return its seconds and its result."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ggl.cli", "audit", "--out", f"{folder}/out", *CASES[case].split()]
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        started = time.monotonic()
        subprocess.run(  # noqa: S603
            [*command, "--device", "cpu", *more],
            cwd=checkout,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.monotonic() - started
        return seconds, json.loads(Path(folder, "out", "result.json").read_text())


@contextmanager
def beside(count: int) -> Iterator[None]:
    """Have so many processes compute without end."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]  # noqa: S603
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(case: str, old: Path, busy: bool) -> dict[str, object]:
    """Run a case once by either checkout, the older one first."""
    with beside(int(busy)):
        before, theirs = run(case, old)
        now, ours = run(case, HERE)
    return {"case": case, "busy": busy, "old": before, "new": now, "scores": [_scores(theirs), _scores(ours)]}


def equal(case: str) -> bool:
    """Return whether one worker and all find the same."""
    results = [run(case, HERE, *more)[1] for more in (("--workers", "1"), ())]
    for result in results:
        del result["timing"]
    return results[0] == results[1]


def row(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return a case's line of the table."""
    old, new = (median(one[which] for one in runs) for which in ("old", "new"))
    ratios = [one["old"] / one["new"] for one in runs]
    theirs, ours = runs[0]["scores"]
    change = max(abs(a - b) for a, b in zip(theirs, ours, strict=True))
    what = f"{runs[0]['case']}{', beside a busy process' if runs[0]['busy'] else ''}"
    spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {what} | {len(runs)} | {old:.1f} | {new:.1f} | {spread} | {change:.2f} |"


def _scores(result: Mapping[str, Any]) -> list[float]:
    return [cell["leak_score"]["mean"] for cell in result["results"]]


def main() -> None:
    """Read the command line, measure, and print the table of all runs in the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=Path, required=True)
    parser.add_argument("--case", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument(
        "--check", action="store_true", help="compare one worker with all, and measure nothing"
    )
    parser.add_argument("--runs", type=Path, default=Path("audits.jsonl"))
    options = parser.parse_args()
    if options.check:
        for case in options.case:
            print(f"{case}: {'the same by one worker and by all' if equal(case) else 'NOT the same'}")
        return
    for _ in range(options.repeats):
        for case in options.case:
            with options.runs.open("a") as file:
                file.write(json.dumps(measure(case, options.old, options.busy)) + "\n")
    print("| audit | runs | old s | new s | old / new | change of a leak score |\n|---|---|---|---|---|---|")
    every = [json.loads(line) for line in options.runs.read_text().splitlines()]
    for busy in (False, True):
        for case in CASES:
            runs = [one for one in every if (one["case"], one["busy"]) == (case, busy)]
            if runs:
                print(row(runs))


if __name__ == "__main__":
    main()
