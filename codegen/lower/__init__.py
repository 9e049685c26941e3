"""Lower any layer or map to a program: sums become contractions or convolutions, other access becomes gathers."""
