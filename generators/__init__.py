"""The latent-space layer: priors over images."""
