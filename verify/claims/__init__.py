"""The ledger of the paper's claims: for each claim the derivations, the training evidence, and where to find them.

proofs      equations from the derivations, with their status
ledger      claims with their proofs, findings and verdicts
markdown    the ledger as a Markdown page
command     ``affdiv claims``
"""
