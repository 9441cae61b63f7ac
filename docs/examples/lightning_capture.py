"""Capture one client's update where Lightning trains it: two checkpoints of its trainer.

Run `python lightning_capture.py FOLDER`; it writes FOLDER/before.ckpt and FOLDER/after.ckpt. It needs no
Lightning: `save_checkpoint` writes what `Trainer.save_checkpoint(file)` does, the network under `model.` in a
`state_dict`.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

import ggl

LEARNING_RATE = 0.1
BATCH_SIZE = 2


class Module(torch.nn.Module):
    """Put your own LightningModule here; it holds the network as `model`, beside what it needs to train."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
        self.register_buffer("class_weights", torch.ones(10))

    def training_step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch."""
        return F.cross_entropy(self.model(images), labels, weight=self.class_weights)


def save_checkpoint(file: Path, module: Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write a checkpoint: the module's weights, the optimizer's state, hyperparameters of any class."""
    torch.save(
        {
            "epoch": 0,
            "global_step": step,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": module.state_dict(),
            "optimizer_states": [optimizer.state_dict()],
            "hyper_parameters": argparse.Namespace(lr=LEARNING_RATE),
        },
        file,
    )


def main(folder: Path) -> None:
    """Take one SGD step with momentum's first velocity, the gradient, and write both files to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    module, data = Module(), ggl.load_dataset("fashion-mnist-heldout")
    optimizer = torch.optim.SGD(module.model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    save_checkpoint(folder / "before.ckpt", module, optimizer, 0)
    module.training_step(data.images[:BATCH_SIZE], data.labels[:BATCH_SIZE]).backward()
    optimizer.step()
    save_checkpoint(folder / "after.ckpt", module, optimizer, 1)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "capture"))
