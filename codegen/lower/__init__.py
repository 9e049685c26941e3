"""Lower any layer or map to a program: sums become contractions or convolutions, any other access becomes a gather."""
