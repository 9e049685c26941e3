"""Benchmarks: each measures both sides in one run and writes what it measured, with where and with which versions."""
