"""What the generated files share, whatever computes a map: which backend is taken, checks, rows, patches, operators.

A package that is generated holds these files as they are, in its folder ``runtime``; nothing else imports them.
"""
