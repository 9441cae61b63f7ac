"""What a shared gradient says of its labels."""

from ggl.gradients import Gradients

__all__ = ["infer_label"]


def infer_label(shared: Gradients) -> int | None:
    """Return the label of a single image: the most negative row of the last layer's gradient.

    iDLG (arXiv 2001.02610, eq. 3): of cross-entropy, the bias gradient is softmax - one-hot, negative at
    the label alone; without a bias the rows of the weight gradient are summed. The last layer is
    the last matrix among the parameters; without one nothing is read, and None returned.
    """
    names = list(shared)
    weight = next((name for name in reversed(names) if shared[name].dim() == 2), None)
    if weight is None:
        return None
    bias = weight.removesuffix("weight") + "bias"
    evidence = shared[bias] if bias in shared else shared[weight].sum(1)
    return int(evidence.argmin())
