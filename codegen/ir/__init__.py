"""The intermediate representation: programs, the rules that every program obeys, and the NumPy interpreter.

A ``Program`` checks itself whenever it is built, so the verifier runs after every pass.
"""
