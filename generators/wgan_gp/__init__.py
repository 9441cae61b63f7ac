"""WGAN-GP, the prior of GGL's CelebA experiments, and the script that trains it."""
