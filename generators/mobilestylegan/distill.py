"""Fit an early exit of MobileStyleGAN to the whole network's own pictures.

    python -m ggl.generators.mobilestylegan.distill 64 --pictures DIR --out DIR

Draws pictures into --pictures first, or takes those that are there. A killed run goes on where it was. Writes
`mobilestylegan-exitSIZE.safetensors` (float16), `quality.json` (what the model card quotes) and `faces.png`
(held-out latents: the whole network above, the exit fitted and not fitted below). Needs
`ggl weights fetch mobilestylegan-ffhq`; LPIPS is measured where its weights are at hand.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import save_image

from ggl.base.errors import CheckpointError, GGLError, InputError
from ggl.base.files import write_atomically
from ggl.base.weight_files import locate
from ggl.base.weights import save_state, save_tensors
from ggl.generators.mobilestylegan.early_exit import EXITS, EarlyExit, fitted_names
from ggl.generators.mobilestylegan.pictures import PART, draw_part, styles_of_part
from ggl.generators.mobilestylegan.prior import ENTRY, MobileStyleGAN
from ggl.generators.mobilestylegan.weights import load_synthesis
from ggl.measures.lpips import load_lpips

HELD_OUT = 4
"""Parts of pictures that are never fitted to: 100 of mapped latents, 100 of Gaussian styles."""
BATCH = 8
LEARNING_RATE = 3e-4
WARM_UP = 50
"""Steps over which the learning rate rises; then it falls as a cosine."""
CHECKPOINT_EVERY = 250


class Fit:
    """Adam on the mean squared error of pixels, of what `fitted_names` names."""

    def __init__(self, network: EarlyExit, steps: int, seed: int) -> None:
        self.network, self.steps, self.seed = network, steps, seed
        self.step, self.seconds = 0, 0.0
        wanted = set(fitted_names(network))
        self.fitted = {n: p.requires_grad_() for n, p in network.named_parameters() if n in wanted}
        self.optimizer = torch.optim.Adam(self.fitted.values(), LEARNING_RATE, betas=(0.9, 0.99))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: self._rate(step))
        self.random = torch.Generator().manual_seed(seed)

    def _rate(self, step: int) -> float:
        return min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * min(1.0, step / self.steps))) / 2

    def advance(self, maps: Tensor, styles: Tensor, pictures: Tensor) -> None:
        """One step on a batch that is drawn of the trunk's maps, their styles and their pictures."""
        rows = torch.randint(len(maps), (BATCH,), generator=self.random)
        images = self.network.finish(maps[rows].float(), styles[rows], self.network.trunk) / 2 + 0.5
        self.optimizer.zero_grad()
        F.mse_loss(images, pictures[rows]).backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1

    def state_dict(self) -> dict[str, object]:
        """Return everything that a continued fit needs."""
        return {
            "fitted": self.fitted,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": self.random.get_state(),
            "progress": [self.step, self.seconds],
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from `state_dict`."""
        self.network.load_state_dict(state["fitted"], strict=False)  # type: ignore[arg-type]
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.schedule.load_state_dict(state["schedule"])  # type: ignore[arg-type]
        self.random.set_state(state["random"])  # type: ignore[arg-type]
        self.step, self.seconds = state["progress"]  # type: ignore[misc]


def fit(state: Fit, maps: Tensor, styles: Tensor, pictures: Tensor, out: Path) -> None:
    """Fit to the last step, from the checkpoint in `out` if there is one.

    Raises:
        CheckpointError: it is of another fit.
    """
    checkpoint = out / "checkpoint.pt"
    asked = {"seed": state.seed, "steps": state.steps, "pictures": list(pictures.shape)}
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["asked"] != asked:
            raise CheckpointError(
                f"{checkpoint}: expected a fit of {asked}, found {saved['asked']}; "
                "name another folder with --out"
            )
        state.load_state_dict(saved)
    started = time.monotonic() - state.seconds
    while state.step < state.steps:
        state.advance(maps, styles, pictures)
        if state.step % CHECKPOINT_EVERY == 0 or state.step == state.steps:
            state.seconds = time.monotonic() - started
            save_state(checkpoint, state.state_dict() | {"asked": asked})
            print(f"step {state.step}/{state.steps}, {state.seconds:.0f} s", flush=True)


@torch.no_grad()
def measure(network: EarlyExit, styles: Tensor, pictures: Tensor) -> dict[str, object]:
    """Return how close the exit's images come to pictures that were not fitted to, per kind of styles."""
    images = torch.cat([_images(network, part) for part in styles.split(BATCH)])
    psnr = -10 * (images - pictures).square().flatten(1).mean(1).log10()
    mapped = (torch.arange(len(styles)) // PART) % 2 == 0
    found: dict[str, object] = {
        "held_out": len(styles),
        "psnr_mapped": float(psnr[mapped].mean()),
        "psnr_gaussian": float(psnr[~mapped].mean()),
        "psnr_worst": float(psnr.min()),
    }
    lpips = load_lpips()
    if lpips is None:
        return found | {"lpips": "not measured: its weights are not at hand"}
    distances = torch.cat(
        [lpips(a, b) for a, b in zip(images.split(BATCH), pictures.split(BATCH), strict=True)]
    )
    return found | {"lpips_mean": float(distances.mean()), "lpips_worst": float(distances.max())}


def main() -> None:
    """Draw, fit, measure, export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", type=int, choices=EXITS, help="height and width in pixels of the images")
    parser.add_argument("--pictures", type=Path, required=True, help="folder of the whole network's pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the results")
    parser.add_argument(
        "--parts", type=int, default=40, help=f"parts of {PART} pictures, {HELD_OUT} held out"
    )
    parser.add_argument("--steps", type=int, default=3_000, help=f"steps of batch {BATCH}")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        run(options)
    except GGLError as error:
        parser.error(str(error))


def run(options: argparse.Namespace) -> None:
    """Do what the command line asks for.

    Raises:
        InputError: counts that are too small, or a folder that is a file.
    """
    for name, least in (("steps", 1), ("parts", HELD_OUT + 1)):
        if getattr(options, name) < least:
            raise InputError(f"expected --{name} of at least {least}, found {getattr(options, name)}")
    for folder in (options.out, options.pictures):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: expected a folder, found a file")
    whole = MobileStyleGAN(space="w", exit="full")
    for folder in (options.out, options.pictures):
        folder.mkdir(parents=True, exist_ok=True)
    drawn = [draw_part(whole, options.pictures, options.seed, part) for part in range(options.parts)]
    pictures = F.adaptive_avg_pool2d(torch.cat(drawn), options.size)
    styles = torch.cat([styles_of_part(whole, options.seed, part) for part in range(options.parts)])
    network = EarlyExit(load_synthesis(locate(ENTRY)), options.size)
    with torch.no_grad():
        maps = torch.cat([network.begin(part, network.trunk).half() for part in styles.split(PART)])
    aside = HELD_OUT * PART
    quality: dict[str, object] = {"before the fit": measure(network, styles[:aside], pictures[:aside])}
    rows = [pictures[:8], _images(network, styles[:8])]
    state = Fit(network, options.steps, options.seed)
    fit(state, maps[aside:], styles[aside:], pictures[aside:], options.out)
    tensors = {name: tensor.detach().half() for name, tensor in state.fitted.items()}
    network.load_state_dict({**network.state_dict(), **tensors})
    rows.insert(1, _images(network, styles[:8]))
    save_tensors(options.out / f"mobilestylegan-exit{options.size}.safetensors", tensors)
    save_image(torch.cat(rows), options.out / "faces.png", nrow=8)
    quality |= {
        "fitted": measure(network, styles[:aside], pictures[:aside]),
        "pictures": len(styles) - aside,
        "steps": state.step,
        "seconds": round(state.seconds),
        "seed": options.seed,
    }
    write_atomically(options.out / "quality.json", json.dumps(quality, indent=1).encode())
    print(json.dumps(quality, indent=1))


@torch.no_grad()
def _images(network: EarlyExit, styles: Float[Tensor, "n 512"]) -> Float[Tensor, "n 3 size size"]:
    images: Tensor = (network(styles) / 2 + 0.5).clamp(0, 1)
    return images


if __name__ == "__main__":
    main()
