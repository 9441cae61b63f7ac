"""The inversion influence function: a perfect attacker's error, from Jacobian products."""
