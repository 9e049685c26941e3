"""The report of a run: one HTML file with its mathematics, its checks and its curves, readable without a network."""
