"""What the maps for JAX share: numbers of any size, entries at computed positions, checks of what a caller gives.

These files are copied into a package as they are; in this project only the package imports them.
"""
