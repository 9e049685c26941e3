"""The whole chain in one go: derive, solve, compare the generated code, verify, train, report."""
