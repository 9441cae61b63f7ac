"""Capture one client's update as a Flower NumPyClient sends it: lists of arrays, without names.

Run `python flower_arrays_capture.py FOLDER`; it writes FOLDER/before.npz and FOLDER/after.npz. It needs no
Flower: the client is called as Flower's server calls it, and its arrays are those that
`parameters_to_ndarrays` gives there.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import ggl

try:
    from flwr.client import NumPyClient
except ImportError:  # the class needs nothing of its base to train
    NumPyClient = object

LEARNING_RATE = 0.1
BATCH_SIZE = 2


def get_parameters(model: torch.nn.Module) -> list[np.ndarray]:
    """Return a model's weights in the order of its state dict, as Flower's tutorials do."""
    return [tensor.cpu().numpy() for tensor in model.state_dict().values()]


def set_parameters(model: torch.nn.Module, parameters: list[np.ndarray]) -> None:
    """Give a model the weights that the server sends."""
    names = model.state_dict().keys()
    model.load_state_dict({name: torch.tensor(a) for name, a in zip(names, parameters, strict=True)})


class Client(NumPyClient):
    """Put your own client here."""

    def __init__(self) -> None:
        self.model = ggl.load_victim("resnet18", in_channels=1, num_classes=10, image_size=32)
        self.data = ggl.load_dataset("fashion-mnist-heldout")

    def fit(self, parameters: list[np.ndarray], config: dict) -> tuple[list[np.ndarray], int, dict]:  # noqa: ARG002
        """Take one SGD step in train mode, so that batch normalization's statistics are sent back too."""
        set_parameters(self.model, parameters)
        self.model.train()
        optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE)
        images, labels = self.data.images[:BATCH_SIZE], self.data.labels[:BATCH_SIZE]
        F.cross_entropy(self.model(images), labels).backward()
        optimizer.step()
        return get_parameters(self.model), BATCH_SIZE, {}


def main(folder: Path) -> None:
    """Do the server's half of a round with one client and write both files to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    client = Client()
    sent = [array.copy() for array in get_parameters(client.model)]  # the model's own memory otherwise
    # In a strategy's `aggregate_fit`, before the average: parameters_to_ndarrays(result.parameters).
    received, _, _ = client.fit(sent, {})
    np.savez(folder / "before.npz", *sent)
    np.savez(folder / "after.npz", *received)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "capture"))
