"""From a program to steps: which instructions a kernel does together, and what is left to a library."""
