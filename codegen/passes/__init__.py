"""Passes over programs, one idea each."""
