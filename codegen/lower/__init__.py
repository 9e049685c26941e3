"""Any layer or map becomes a program: sums are contractions or convolutions, what is neither is gathered first."""
