"""The priors whose weights are bundled, and the script that trained them."""
