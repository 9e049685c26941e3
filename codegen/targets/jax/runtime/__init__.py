"""What the maps for JAX share: numbers of any size, entries at computed positions, checks of arguments.

These files are copied unchanged into a package; only the package imports them.
"""
