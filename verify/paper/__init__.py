"""The whole project as one document: derivations, proofs, checks, speed, training runs, claims, references.

gather      what the document tells of: derivations made and checked now, checks, and committed tables
overview    claims with their verdicts, and layers with their self factors, on the first pages
checks      the table of verification
speed       what ``affdiv bench`` measured
runs        the figures of training runs
claims      the ledger of claims
document    all of it in order, as LaTeX with its figures
command     ``affdiv paper``
"""
