"""The last layer's gradient alone: what a search may compare that takes no backward pass."""

from dataclasses import replace

from ggl.attacks.label_sources import head_layer
from ggl.base.errors import InputError
from ggl.gradients import GradientOracle, View

__all__ = ["find_head_layer", "head_alone"]


def find_head_layer(oracle: GradientOracle, image_shape: tuple[int, int, int]) -> str:
    """Return the linear layer that the victim's logits come from.

    Raises:
        InputError: there is none.
    """
    layer = head_layer(oracle, image_shape)
    if layer is None:
        raise InputError(
            "layers=head: expected a victim whose logits are made by a linear layer, found none; "
            "leave layers=head out"
        )
    return layer


def head_alone(view: View, oracle: GradientOracle, image_shape: tuple[int, int, int]) -> View:
    """Return a view that compares the last layer's gradient and nothing else.

    Its gradient is (p - y) ⊗ h, h what the layer reads: whatever a forward pass gives.

    Raises:
        InputError: there is no such layer, or the view compares something else than parameters' gradients,
            or not those of this layer.
    """
    layer = find_head_layer(oracle, image_shape)
    own = {name for name in view.target if name.rpartition(".")[0] == layer} - view.ignored
    if view.both or not own:
        raise InputError(
            f"layers=head: expected an attacker who compares the gradient of the last layer, {layer!r}; "
            "this one does not: leave layers=head out"
        )
    return replace(view, ignored=frozenset(view.target) - own)
