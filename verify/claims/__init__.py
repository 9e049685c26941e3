"""The ledger of the paper's claims: what is derived of each, what training runs say of it, and where that can be seen.

proofs      equations, with their status, from the derivations
ledger      claims, proofs and findings put together, with a verdict
markdown    the ledger as a page
command     ``affdiv claims``
"""
