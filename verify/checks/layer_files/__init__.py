"""Checks of layers from TOML files: the same families as for the shipped layers, on a package generated for the file.

    FILE ─▶ derive.Layer ─▶ package (generated to a temporary folder, or the one that --package names)
         └▶ formula, evaluated by einsum and gathers (``formula``) ─▶ the reference that the package is held against

The reference shares with the generator the expression nodes alone: no program, no printer, no derivative of its own.
"""
