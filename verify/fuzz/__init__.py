"""Fuzz the CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer.

A case is a map, a torch mode, and operands in random memory layouts; one of them may be a special tensor. The result
must match hand-written float64 references, or the call must raise one of our errors. No operand may change, and the
sanitizers must report nothing. ``python -m verify.fuzz`` runs it.
"""
