"""The maps: one folder per target, one file per map in it."""
