"""The parts of generated files that are the same in every target with kernels."""
