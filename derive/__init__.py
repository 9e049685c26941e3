"""Derive the effective activation update of a layer from its forward map, and the maps that cancel its divergence."""
