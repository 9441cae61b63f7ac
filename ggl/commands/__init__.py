"""What each command of `ggl` does and prints."""
