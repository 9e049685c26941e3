"""What the generated files of all targets share: the choice of backend, checks, rows, patches, operators.

These files are copied unchanged into the folder ``runtime`` of a generated package; only its files import them.
"""
