"""What a reproduction measures beside sweeps of attacks: a module each kind."""
