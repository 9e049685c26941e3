"""Derivations as text, LaTeX, Markdown, MathML, HTML and JSON: printing only; nothing is derived here.

``outline`` turns derivations into one sequence of blocks; each format is a renderer of those blocks. Expressions reach
all of them through two printers (``text`` and ``notation``) that choose readable letters for indices (``letters``).
"""
