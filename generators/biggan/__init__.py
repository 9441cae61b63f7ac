"""BigGAN-deep, from the files that Hugging Face published."""
