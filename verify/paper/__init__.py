"""The whole project as one document: derivations, proofs, checks, speed, training runs, claims, references.

gather      the content: derivations computed and checked now, checks, and committed tables
overview    claims with their verdicts, and layers with their self factors, on the first pages
checks      the table of verification
speed       the results of ``affdiv bench``
runs        the figures of training runs
claims      the ledger of claims
document    the whole document as LaTeX, with its figures
command     ``affdiv paper``
"""
