"""Plain generators out of state dicts: what the tensors say of the network, and what must be asked for."""
