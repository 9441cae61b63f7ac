"""How an attacker searches: settings, latents and labels, the loop, and the attacks over it."""
