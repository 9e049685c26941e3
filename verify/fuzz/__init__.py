"""Random calls of the kernels for the CPU under the sanitizers of addresses and of undefined behaviour.

A case is a map, a mode of torch, and operands in random layouts; one of them may be a special tensor. The result must
match hand-written references in float64, or the call must raise one of our errors. No operand may change, and no
sanitizer may report anything. ``python -m verify.fuzz`` runs it.
"""
