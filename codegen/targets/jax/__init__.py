"""The JAX target: a package for JAX, with functions and equinox modules."""
