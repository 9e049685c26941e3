"""The maps in torch's operations, a file a map."""
