"""What cells name is loaded as an audit loads it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_records import CELL

from ggl.base.errors import InputError
from ggl.benchmarks.sweeps.components import Components
from ggl.victims import load_victim


def test_a_victims_weights_are_an_entry_of_a_checkpoint_and_say_how_many_classes_there_are(tmp_path):
    state = load_victim("mlp", in_channels=1, num_classes=7, image_size=8, seed=5).state_dict()
    torch.save({"ema": state, "model": {name: t + 1 for name, t in state.items()}}, tmp_path / "w.pt")
    np.savez(tmp_path / "data.npz", images=np.zeros((6, 8, 8), np.uint8), labels=np.arange(6) % 3)
    cell = replace(
        CELL,
        prior="pixels:1x8x8",
        victim="mlp",
        victim_weights=f"{tmp_path / 'w.pt'},key=ema",
        data=str(tmp_path / "data.npz"),
    )
    assert torch.equal(Components().victim(cell).fc.weight, state["fc.weight"])
    np.savez(tmp_path / "data.npz", images=np.zeros((6, 8, 8), np.uint8), labels=np.arange(6) + 2)
    with pytest.raises(InputError, match="expected labels below the victim's 7 classes, found 7"):
        Components().victim(cell)
