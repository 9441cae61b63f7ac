"""Capture one client's update where Opacus makes its training private: gradients clipped and noised.

Run `python opacus_capture.py FOLDER`; it writes FOLDER/before.safetensors and FOLDER/after.safetensors.
"""

import sys
from pathlib import Path

import torch
from opacus import PrivacyEngine
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ggl

LEARNING_RATE = 0.1
BATCH_SIZE = 4
CLIP = 1.0
NOISE_MULTIPLIER = 0.5


def main(folder: Path) -> None:
    """Train for one epoch of two mini-batches under DP-SGD and write both files to `folder`."""
    # Put your own network and your own client's data here.
    model = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
    data = ggl.load_dataset("fashion-mnist-heldout")
    loader = DataLoader(
        TensorDataset(data.images[: 2 * BATCH_SIZE], data.labels[: 2 * BATCH_SIZE]), batch_size=BATCH_SIZE
    )

    # Opacus trains in train mode only. Without Poisson sampling every batch has BATCH_SIZE images, so
    # that the auditor knows how many there are; its ε then doesn't hold as Opacus states it.
    model.train()
    private_model, optimizer, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=LEARNING_RATE),
        data_loader=loader,
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=CLIP,
        poisson_sampling=False,
    )

    # Opacus puts `_module.` before every name. `ggl` takes it off as it reads; you need not.
    folder.mkdir(parents=True, exist_ok=True)
    save_file(private_model.state_dict(), folder / "before.safetensors")
    for x, y in loader:
        optimizer.zero_grad()
        F.cross_entropy(private_model(x), y).backward()
        optimizer.step()
    save_file(private_model.state_dict(), folder / "after.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "capture"))
