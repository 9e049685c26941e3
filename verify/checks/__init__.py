"""Checks of the derivations and of the generated layers, each by a route of its own."""
