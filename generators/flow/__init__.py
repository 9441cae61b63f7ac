"""Flow-matching priors, whose latents are a flow's noise, and the script that trains them."""
