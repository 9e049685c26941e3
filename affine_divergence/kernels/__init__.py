"""The maps: a folder a target, and in it a file a map."""
