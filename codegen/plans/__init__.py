"""Plans: what is generated for one map, independent of the target (programs, settings, digest).

rows        maps of one matrix and one scale per row        layers   maps of any layer, and ``plain`` the layer itself
patches     maps of convolutions                            angles   the member of the affine family at an angle
unit_rows   rows of unit length                             value_path, self_factors   what attention and diagnosis need
"""
