"""Every public signature's shapes are checked at run time while the tests run."""

from jaxtyping import install_import_hook

install_import_hook("ggl", "beartype.beartype")
