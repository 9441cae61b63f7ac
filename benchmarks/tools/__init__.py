"""Scripts that make files: the held-out images, weights of true shapes."""
