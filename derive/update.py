"""From a forward map to the effective activation update, step by step.

    forward map                      z[s, i]
    -> parameter gradients           dz[s, i] / dW[a, b]
    -> loss gradients                sum over s, i of g[s, i] dz[s, i]/dW[a, b]
    -> one step of the rule          W'[a, b] = W[a, b] - eta * gradient
    -> change of the activation      z' - z = -eta sum K g  (+ higher orders in eta)
    -> update kernel K               -> self factor K_ss    -> cross terms K_ss'

The forward map determines which output axes are samples: an axis that by itself indexes a parameter is a unit, any
other a sample (theory, section 1). No layer is special here.
"""

from __future__ import annotations

from functools import lru_cache

from sympy import Expr

from derive.deriver import Deriver
from derive.forward_map import Layer
from derive.record import Derivation


@lru_cache(maxsize=256)
def effective_update(layer: Layer, rule: str = "sgd") -> Derivation:
    """Derive the effective activation update of a layer under an update rule (``sgd`` or one of ``derive.rules``).

    Raises LayerError when the forward map depends on no parameter, or for an unknown rule.
    """
    if rule == "sgd":
        return deriver(layer).derivation()
    from derive.rules import under_rule

    return under_rule(deriver(layer), rule)


def deriver(layer: Layer) -> Deriver:
    """Return the derivation of a layer, stage by stage: through named slopes where the forward map is long."""
    from derive.chained import ChainedDeriver, is_long

    return ChainedDeriver.of(layer) if is_long(layer) else Deriver(layer)


def update_kernel(layer: Layer) -> Expr:
    """Return the update kernel alone: ``K[sample, unit; sample', unit']`` in normal form, factored."""
    return deriver(layer).kernel
