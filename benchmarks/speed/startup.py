"""What one waits for before anything runs: commands that only answer, and imports.

    python benchmarks/speed/startup.py [--repeats 5]

Every line is a fresh process, the median over repeats: CPU seconds, their ratio to `import torch`, and the
peak of memory. Exits with 1 where a bound is broken: an answer takes at most `ANSWER_SECONDS` and
`ANSWER_MEGABYTES` and imports no package of `HEAVY`; `import ggl` costs at most `IMPORT_RATIO` times
`import torch`, and so does taking all of its public names, but for what torch itself does not bring.
"""

import argparse
import os
import subprocess
import sys
from statistics import median
from typing import NamedTuple

__all__ = ["HEAVY", "STATEMENTS", "Cost", "cost_of", "heavy_after"]

HEAVY = (
    "botorch", "cma", "gpytorch", "matplotlib", "nevergrad", "numpy", "opacus", "pandas", "ray", "scipy",
    "torch", "torchvision",
)  # fmt: skip
"""Packages that no answer imports."""

ANSWER_SECONDS, ANSWER_MEGABYTES = 1.0, 150.0
IMPORT_RATIO = 1.3

ANSWERS: dict[str, tuple[str, ...]] = {
    "ggl": (),
    "ggl --help": ("--help",),
    "ggl audit --help": ("audit", "--help"),
    "ggl bench run --help": ("bench", "run", "--help"),
    "ggl list priors": ("list", "priors"),
    "ggl list strategies": ("list", "strategies"),
    "ggl list defenses": ("list", "defenses"),
    "ggl list victims": ("list", "victims"),
    "ggl weights list": ("weights", "list"),
    "a mistyped command": ("adit",),
    "a mistyped defense": ("audit", "--out", "never", "--defense", "prunee:0.9"),
    "a mistyped strategy": ("audit", "--out", "never", "--strategy", "cmaes"),
}
"""Command lines that are answered from names alone."""

IMPORTS = {
    "import torch": "import torch",
    "import ggl": "import ggl",
    "its public names": "import ggl; [getattr(ggl, name) for name in ggl.__all__]",
}

REPORT = "import sys; print('|' + ' '.join(sorted({m.partition('.')[0] for m in sys.modules})))"


def command(arguments: tuple[str, ...]) -> str:
    """Return the statement that runs a command line in a process of its own."""
    return (
        f"import sys; sys.argv = ['ggl', *{arguments!r}]; from ggl import cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass"
    )


COMPLETION = f"""
import os
os.environ |= {{"_GGL_COMPLETE": "complete_bash", "COMP_WORDS": "ggl audit --strategy c", "COMP_CWORD": "3"}}
{command(())}
"""
"""What a shell runs when one presses the tabulator."""

STATEMENTS = {
    **{name: command(arguments) for name, arguments in ANSWERS.items()},
    "completion of a name": COMPLETION,
    **IMPORTS,
}
"""What is measured, by its name in the table."""


class Cost(NamedTuple):
    """What a process took."""

    cpu_seconds: float
    megabytes: float


def cost_of(statement: str) -> Cost:
    """Run a statement in a fresh interpreter and return what that took, child processes included."""
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", statement], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{statement!r} ended with {process.returncode}")
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def heavy_after(statement: str) -> set[str]:
    """Return the packages of `HEAVY` that a statement imports in a fresh interpreter."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", f"{statement}\n{REPORT}"], capture_output=True, text=True, check=True
    )
    return {*done.stdout.rpartition("|")[2].split()} & {*HEAVY}


def main() -> int:
    """Print the table; return 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    runs = [{name: cost_of(statement) for name, statement in STATEMENTS.items()} for _ in range(repeats)]
    costs = {name: Cost(*(median(run[name][i] for run in runs) for i in (0, 1))) for name in STATEMENTS}
    torch = costs["import torch"].cpu_seconds
    broken = []
    print("| | CPU seconds | of `import torch` | peak MB |\n|---|---|---|---|")
    for name, cost in costs.items():
        print(f"| {name} | {cost.cpu_seconds:.2f} | {cost.cpu_seconds / torch:.2f} | {cost.megabytes:.0f} |")
        slow = cost.cpu_seconds > ANSWER_SECONDS or cost.megabytes > ANSWER_MEGABYTES
        if (name not in IMPORTS and (slow or heavy_after(STATEMENTS[name]))) or (
            name in IMPORTS and cost.cpu_seconds > IMPORT_RATIO * torch
        ):
            broken.append(name)
    print(f"\nbounds broken: {', '.join(broken) or 'none'}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
