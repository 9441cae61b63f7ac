"""Capture one client's update on a Flower server, before the clients' updates are averaged.

Run `FLWR_TELEMETRY_ENABLED=0 python flower_capture.py FOLDER`; it writes FOLDER/before.safetensors and
FOLDER/after.safetensors. Needs `flwr` and `ray`, which simulates the clients on this machine.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from safetensors.torch import save_file
from torch.nn import functional as F

import ggl

LEARNING_RATE = 0.1
CLIENTS = 2


def build_model() -> torch.nn.Module:
    """Put your own network here."""
    return ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)


client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Take one SGD step on the client's one image; put your own client's training here."""
    client = int(context.node_config["partition-id"])
    data = ggl.load_dataset("fashion-mnist-heldout")
    model = build_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    F.cross_entropy(model(data.images[[client]]), data.labels[[client]]).backward()
    optimizer.step()
    metrics = MetricRecord({"num-examples": 1, "client": client})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


class CapturingFedAvg(FedAvg):
    """Federated averaging that writes what client 0 got and gave; any other strategy does as well."""

    def __init__(self, folder: Path) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.folder = folder

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Write the weights that the server sends."""
        save_file(arrays.to_torch_state_dict(), self.folder / "before.safetensors")
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Write the weights that client 0 sends back; an honest but curious server sees each of them."""
        replies = list(replies)
        for reply in replies:
            if reply.has_content() and reply.content["metrics"]["client"] == 0:
                save_file(reply.content["arrays"].to_torch_state_dict(), self.folder / "after.safetensors")
        return super().aggregate_train(server_round, replies)


def main(folder: Path) -> None:
    """Run one round with `CLIENTS` clients and write both files to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, _context: Context) -> None:
        start = ArrayRecord(build_model().state_dict())
        CapturingFedAvg(folder).start(grid, start, num_rounds=1, timeout=300)

    one_cpu = {"init_args": {"num_cpus": 1}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, num_supernodes=CLIENTS, backend_config=one_cpu)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "capture"))
