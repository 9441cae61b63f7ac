"""What every layer stands on: errors, the registry of names, random streams, weight files."""
