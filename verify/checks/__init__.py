"""Checks of the derivations and of the generated layers, each by an independent method."""
