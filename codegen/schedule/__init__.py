"""Schedule a program: decide which instructions one kernel fuses, and which calls go to a library."""
