"""Checks of layers from TOML files: the same families as for shipped layers, on a package generated for the file.

    FILE ─▶ derive.Layer ─▶ package (generated to a temporary folder, or the one that --package names)
         └▶ formula, evaluated by einsum and gathers (``formula``) ─▶ the reference for the package

The reference shares only the expression nodes with the generator: it uses no IR, no printer and no derived derivative.
"""
