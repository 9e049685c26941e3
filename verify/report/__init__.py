"""The report of a run: one self-contained HTML file with derivations, checks and curves, readable offline."""
