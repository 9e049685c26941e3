"""Benchmarks: each measures both sides in one run and records the results with the machine and the versions."""
