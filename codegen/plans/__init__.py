"""What is generated for one map, before any target is chosen: its programs, settings and digest.

rows        maps of one matrix and one scale a row          layers   maps of any layer, and ``plain`` the layer itself
patches     maps of convolutions                            angles   the member of the affine family at an angle
unit_rows   rows of unit length                             value_path, self_factors   what attention and diagnosis need
"""
