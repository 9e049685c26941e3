"""Rules that find problems in a training step: each reads the evidence of one step and returns findings.

finding      the contents of a finding, its kinds, and their order in reports
thresholds   every threshold of a rule, and the reason for its value
"""
