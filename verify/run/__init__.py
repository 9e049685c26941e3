"""The whole chain in one command: derive, solve, compare the generated code, verify, train, report."""
