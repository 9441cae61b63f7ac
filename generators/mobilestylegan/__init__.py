"""MobileStyleGAN of faces, from its OpenVINO file."""
