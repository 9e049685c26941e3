"""The behaviour of a cancelling map, computed from it: invariance, injectivity, singular points, limits, bounds."""

from __future__ import annotations

from derive.properties.profile import Profile as Profile
from derive.properties.profile import profile as profile
from derive.properties.ray import energy_symbol as energy_symbol
from derive.properties.ray import r as r
