"""What every skill discovery algorithm shares: priors, networks, policies, replay and the training loop."""
