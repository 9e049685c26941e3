"""Training runs on real data: what is trained, how it is started, what is measured while it trains."""
