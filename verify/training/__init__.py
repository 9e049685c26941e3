"""Training runs on real data: networks, update rules, sweeps, and measurements during training."""
