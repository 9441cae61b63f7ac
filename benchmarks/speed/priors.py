"""Samples per second and peak memory of priors, each in a fresh process.

    python benchmarks/speed/priors.py fashion-dcgan32 digiface-dcgan64 [--batch 1 8] [--formats]

`forward` decodes a batch of latents; `+ backward` also takes the gradient with respect to them, as the
strategies that need gradients do. A rate is the median of repeats after a warm-up; a cell ends after
--repeats or --seconds, whichever comes first. Every prior and batch size has a process of its own. On a
CPU, `base` is its peak memory once torch and ggl are imported, and the columns after it are what loading,
the forward passes and the backward passes add to it, each with what came before. On a GPU they are the
memory that torch allocated there at its peak.

--formats adds what memory formats are worth: the rate of a copy of the prior in each of them over that of
the prior as it is loaded, repeats taking turns so that a noisy machine disturbs both alike.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

# This process imports neither torch nor ggl: the peak memory of a child begins with that of its parent.

HEADINGS = (
    *("prior", "pixels", "batch", "forward /s", "+ backward /s"),
    *("base MiB", "load MiB", "forward MiB", "+ backward MiB"),
)
FORMATS = ("contiguous", "channels-last")
RATIOS = tuple(f"{layout}: {mode}" for layout in FORMATS for mode in ("× forward", "× + backward"))


def measure(options: argparse.Namespace, name: str, batch: int) -> dict[str, Any]:
    """Return the figures of a prior and a batch size, for this process alone."""
    import torch

    from ggl.generators import load_prior

    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    memory = _Memory(device)
    prior = load_prior(name).to(device)
    found: dict[str, Any] = {"pixels": prior.image_shape[-1], "base": memory.base, "load": memory.grown()}
    z = prior.sample(batch, torch.Generator().manual_seed(0)).to(device)
    labels = None if prior.num_classes is None else torch.arange(batch, device=device) % prior.num_classes
    calls = _calls(prior, z, labels)
    for mode, call in calls.items():
        found[f"{mode} rate"] = batch / median(timed([call], options, device)[0])
        found[f"{mode} memory"] = memory.grown()
    for layout in FORMATS if options.formats else ():
        kind = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}[layout]
        others = _calls(load_prior(name).to(device).to(memory_format=kind), z, labels)
        for mode, call in calls.items():
            own, other = timed([call, others[mode]], options, device)
            found[f"{layout} {mode}"] = median(a / b for a, b in zip(own, other, strict=True))
    return found


def _calls(prior: Any, z: Any, labels: Any) -> dict[str, Callable[[], object]]:
    import torch

    def forward() -> object:
        with torch.no_grad():
            return prior.decode(z, labels)

    def backward() -> object:
        latents = z.clone().requires_grad_()
        return torch.autograd.grad(prior.decode(latents, labels).sum(), latents)

    return {"forward": forward, "backward": backward}


def timed(
    calls: Sequence[Callable[[], object]], options: argparse.Namespace, device: Any
) -> list[list[float]]:
    """Return the seconds of every call's repeats, calls taking turns, after a warm-up of each."""
    for call in calls:
        seconds_of(call, device)
    seconds: list[list[float]] = [[] for _ in calls]
    started = time.perf_counter()
    for _ in range(options.repeats):
        for k, call in enumerate(calls):
            seconds[k].append(seconds_of(call, device))
        if time.perf_counter() - started > options.seconds:
            break
    return seconds


def seconds_of(call: Callable[[], object], device: Any) -> float:
    """Return how long a call takes, until the device has done it."""
    import torch

    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


class _Memory:
    """Peak memory in MiB: of this process on a CPU, of torch's allocations on a GPU."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.base = self.peak()

    def peak(self) -> float:
        """Return the peak so far."""
        import torch

        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device)) / 2**20
        unit = 1 if sys.platform == "darwin" else 1024
        return getrusage(RUSAGE_SELF).ru_maxrss * unit / 2**20

    def grown(self) -> float:
        """Return the growth of the peak since the beginning."""
        return self.peak() - self.base


def in_fresh_process(options: argparse.Namespace, name: str, batch: int) -> dict[str, Any]:
    """Return what `measure` returns of a new process, or the reason why it failed."""
    command = [sys.executable, __file__, name, "--batch", str(batch), "--worker"]
    for option in ("device", "threads", "repeats", "seconds"):
        command += [f"--{option}", str(getattr(options, option))]
    command += ["--formats"] if options.formats else []
    threads = {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    try:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=options.limit,
            env={**os.environ, **threads},
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {options.limit:g} s"}
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = lines[-1] if lines else f"exit status {done.returncode}"
    with contextlib.suppress(json.JSONDecodeError):
        if done.returncode == 0:
            found: dict[str, Any] = json.loads(last)
            return found
    return {"failed": last.replace("|", "/")}


def row(name: str, batch: int, found: dict[str, Any], ratios: bool) -> list[str]:
    """Return the cells of a table's row."""
    if "failed" in found:
        return [name, "", str(batch), found["failed"], *[""] * (5 + len(RATIOS) * ratios)]
    cells = [name, str(found["pixels"]), str(batch)]
    cells += [f"{found[key]:.3g}" for key in ("forward rate", "backward rate")]
    cells += [f"{found[key]:.0f}" for key in ("base", "load", "forward memory", "backward memory")]
    keys = [f"{layout} {mode}" for layout in FORMATS for mode in ("forward", "backward")]
    return cells + [f"{found[key]:.2f}" for key in keys if ratios]


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("priors", nargs="+", help="as `ggl list priors` has them, with options")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20, help="at most, of each cell")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each cell, past its warm-up")
    parser.add_argument(
        "--limit", type=float, default=300.0, help="seconds of each process, loading included"
    )
    parser.add_argument("--formats", action="store_true", help="compare memory formats")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print the table; as a worker, one measurement as JSON."""
    options = arguments()
    if options.worker:
        print(json.dumps(measure(options, options.priors[0], options.batch[0])))
        return
    print(f"{options.device}, {options.threads} threads, at most {options.repeats} repeats\n")
    headings = [*HEADINGS, *(RATIOS if options.formats else ())]
    print(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
    for name in options.priors:
        for batch in options.batch:
            found = in_fresh_process(options, name, batch)
            print(f"| {' | '.join(row(name, batch, found, options.formats))} |", flush=True)


if __name__ == "__main__":
    main()
