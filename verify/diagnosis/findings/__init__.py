"""What is wrong with a training step, named: each rule reads what one step showed and returns findings with evidence.

finding      what a finding holds, its kinds, in which order they are told
thresholds   every number that a rule compares with, and why it is that number
"""
