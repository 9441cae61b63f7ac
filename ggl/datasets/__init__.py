"""Images with labels: where they come from, how they are checked, fitted and picked."""
