"""The value path of attention, corrected: z[s,r,t,h] = f[s,r,t]*sum[k](A[s,r,t,k]*v[s,r,k,h]).

Where:

    f[s,r,t] = sqrt(kappa)/sqrt(E_1[s,r,t] + 1)
    E_1[s,r,t] = sum[j](sum[k](A[s,r,t,k]*y[s,k,j])**2)
    v[s,r,k,h] = sum[j](W[r,h,j]*y[s,k,j]) + b[r,h]
    A[s,r,t,k] = E[s,r,t,k]/e[s,r,t]
    e[s,r,t] = sum[k](E[s,r,t,k])

As a map of the mixed input ``x[s,r,t] = sum[k](A[s,r,t,k]*y[s,k])`` of each token t and head r, it is
``f[s,r,t]*(sum[j](W[r,h,j]*x[s,r,t,j]) + b[r,h])``, with the same ``f``; this form is computed here. The mixing may be
done by any attention kernel.

Derivation (SHA-256 of the map): e8639823af47073bd5a57e311cd13be93c7a7d6420a76f721e0022698a7891c3
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...runtime.rows import squared_length


def scale(x: Tensor, kappa: float) -> Tensor:
    """Return the scale of each mixed input of ``x`` (N, H, L, n) as a column (N, H, L, 1) of at least float32.

    f[s,r,t] = sqrt(kappa)/sqrt(E_1[s,r,t] + 1)
    """
    peak, q = squared_length(x)  # attention-value/affine-like/define-E_1
    f = math.sqrt(kappa) / peak / torch.sqrt(q + 1 / peak**2)  # attention-value/affine-like/define-f
    return f


def corrected(x: Tensor, W: Tensor, b: Tensor, kappa: float) -> Tensor:
    """Return the corrected values (N, H, L, d) of mixed inputs ``x`` (N, H, L, n).

    ``W`` (H, d, n) and ``b`` (H, d) are the value projection, one block per head. The input is scaled before the product.
    """
    f = scale(x, kappa)
    u = f * x
    uW = torch.einsum("srta,rha->srth", u.to(x.dtype), W)
    z = (uW + b.unsqueeze(1) * f).to(x.dtype)  # attention-value/affine-like/forward
    return z
