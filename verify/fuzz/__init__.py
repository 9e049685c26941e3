"""Random calls of the kernels for the CPU under the sanitizers of addresses and of undefined behaviour.

A case is a map, a mode of torch, and operands in layouts, one of them perhaps no plain tensor. What comes out is held
against references by hand in float64, or must be refused in our words; no operand may change, and no sanitizer may say
anything. ``python -m verify.fuzz`` runs it.
"""
