"""More modules: from torch.nn, and from models of vision and language."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def enc(h: int, d: int, f: int):
    return nn.TransformerEncoderLayer(h * d, h, f, batch_first=True, dropout=0.0), torch.randn(2, 3, h * d)


def enc_eval(h: int, d: int, f: int):
    return nn.TransformerEncoderLayer(h * d, h, f, batch_first=True).eval(), torch.randn(2, 3, h * d)


def dec(h: int, d: int):
    return nn.TransformerDecoderLayer(h * d, h, 3, batch_first=True, dropout=0.0), (
        torch.randn(2, 3, h * d),
        torch.randn(2, 2, h * d),
    )


def bil(n: int, m: int, k: int):
    return nn.Bilinear(n, m, k), (torch.randn(2, n), torch.randn(2, m))


def rnn(n: int, m: int):
    return nn.RNNCell(n, m), (torch.randn(2, n), torch.randn(2, m))


def prelu(c: int):
    return nn.Sequential(nn.Conv1d(c, c, 3, padding=1), nn.PReLU(c)), torch.randn(2, c, 5)


def inorm(c: int, l: int):
    return nn.Sequential(nn.Conv1d(c, c, 3, padding=1), nn.InstanceNorm1d(c, affine=True)), torch.randn(2, c, l)


def conv3(c: int, o: int):
    return nn.Conv3d(c, o, 2, stride=2, padding=1), torch.randn(2, c, 4, 2, 2)


def tconv2(c: int, o: int):
    return nn.ConvTranspose2d(c, o, 2, stride=2), torch.randn(2, c, 2, 3)


def gconv(g: int, c: int, o: int):
    return nn.Conv2d(g * c, g * o, 3, groups=g, dilation=2, padding=2), torch.randn(2, g * c, 4, 4)


def ps(c: int, r: int):
    return nn.Sequential(nn.Conv2d(c, c * r * r, 1), nn.PixelShuffle(r)), torch.randn(2, c, 2, 2)


def up(c: int):
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(c, c, 3, padding=1)), torch.randn(2, c, 2, 2)


def apool(c: int, o: int, h: int):
    return nn.Sequential(
        nn.Conv2d(c, o, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(o * h * 2, 3)
    ), torch.randn(2, c, 2 * h, 4)


def mpool(c: int, o: int):
    return nn.Sequential(nn.Conv2d(c, o, 1), nn.MaxPool2d(2)), torch.randn(2, c, 4, 4)


def lstm(n: int, m: int):
    return nn.LSTM(n, m, batch_first=True), torch.randn(2, 3, n)


def rnn_relu(n: int, m: int):
    return nn.RNN(n, m, nonlinearity="relu", batch_first=True), torch.randn(2, 3, n)


def wn(n: int, m: int):
    return nn.utils.parametrizations.weight_norm(nn.Linear(n, m)), torch.randn(2, n)


def sn(n: int, m: int):
    return nn.utils.parametrizations.spectral_norm(nn.Linear(n, m)).eval(), torch.randn(2, n)


def bag(v: int, n: int):
    return nn.EmbeddingBag(v, n, mode="sum"), torch.randint(0, 2, (3, 4))


def lrn(c: int):
    return nn.Sequential(nn.Conv2d(c, c, 1), nn.LocalResponseNorm(2)), torch.randn(2, c, 2, 2)


class ConvNeXt(nn.Module):
    def __init__(s, c):
        super().__init__()
        s.dw = nn.Conv2d(c, c, 3, padding=1, groups=c)
        s.n = nn.LayerNorm(c, eps=1e-6)
        s.a = nn.Linear(c, 4 * c)
        s.b = nn.Linear(4 * c, c)
        s.g = nn.Parameter(1e-6 * torch.ones(c))

    def forward(s, x):
        y = s.dw(x).permute(0, 2, 3, 1)
        y = s.b(F.gelu(s.a(s.n(y)))) * s.g
        return x + y.permute(0, 3, 1, 2)


def convnext(c: int):
    return ConvNeXt(c), torch.randn(2, c, 3, 2)


class Res(nn.Module):
    def __init__(s, c):
        super().__init__()
        s.a = nn.Conv2d(c, c, 3, padding=1, bias=False)
        s.x = nn.BatchNorm2d(c)
        s.b = nn.Conv2d(c, c, 3, padding=1, bias=False)
        s.y = nn.BatchNorm2d(c)

    def forward(s, x):
        h = F.relu(s.x(s.a(x)))
        h = s.y(s.b(h))
        h += x
        return F.relu(h)


def res_eval(c: int):
    return Res(c).eval(), torch.randn(2, c, 3, 3)


class ECA(nn.Module):
    def __init__(s):
        super().__init__()
        s.c = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(s, x):
        y = x.mean((2, 3))
        y = s.c(y[:, None]).squeeze(1)
        return x * torch.sigmoid(y)[:, :, None, None]


def eca(c: int):
    return ECA(), torch.randn(2, c, 2, 2)


class Patch(nn.Module):
    def __init__(s, c, d, p, hw):
        super().__init__()
        s.p = nn.Conv2d(c, d, p, stride=p)
        s.cls = nn.Parameter(torch.zeros(1, 1, d))
        s.pos = nn.Parameter(torch.randn(1, hw * hw + 1, d))

    def forward(s, x):
        y = s.p(x).flatten(2).transpose(1, 2)
        y = torch.cat([s.cls.expand(x.shape[0], -1, -1), y], 1)
        return y + s.pos


def patch(c: int, d: int, p: int, k: int):
    return Patch(c, d, p, k), torch.randn(2, c, p * k, p * k)


class Highway(nn.Module):
    def __init__(s, n):
        super().__init__()
        s.h = nn.Linear(n, n)
        s.t = nn.Linear(n, n)

    def forward(s, x):
        t = torch.sigmoid(s.t(x))
        return t * torch.relu(s.h(x)) + (1 - t) * x


def highway(n: int):
    return Highway(n), torch.randn(2, n)


class FiLM(nn.Module):
    def __init__(s, n, c):
        super().__init__()
        s.l = nn.Linear(n, 2 * c)

    def forward(s, x, cond):
        g, b = s.l(cond).chunk(2, -1)
        return g[:, :, None] * x + b[:, :, None]


def film(n: int, c: int):
    return FiLM(n, c), (torch.randn(2, c, 3), torch.randn(2, n))


class T5(nn.Module):
    def __init__(s, h, d, T):
        super().__init__()
        s.h = h
        s.q = nn.Linear(h * d, h * d, bias=False)
        s.k = nn.Linear(h * d, h * d, bias=False)
        s.v = nn.Linear(h * d, h * d, bias=False)
        s.b = nn.Embedding(2 * T - 1, h)
        s.T = T

    def forward(s, x):
        T = x.shape[1]
        q, k, v = (m(x).unflatten(-1, (s.h, -1)).transpose(1, 2) for m in (s.q, s.k, s.v))
        i = torch.arange(T)
        rel = i[None] - i[:, None] + s.T - 1
        bias = s.b(rel).permute(2, 0, 1)
        return ((q @ k.mT + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)


def t5(h: int, d: int, T: int):
    return T5(h, d, T), torch.randn(2, T, h * d)


class Alibi(nn.Module):
    def __init__(s, h, d):
        super().__init__()
        s.h = h
        s.qkv = nn.Linear(h * d, 3 * h * d)
        s.register_buffer("m", 2.0 ** -torch.arange(1, h + 1).double())

    def forward(s, x):
        B, T, E = x.shape
        q, k, v = s.qkv(x).chunk(3, -1)
        q, k, v = (y.view(B, T, s.h, E // s.h).transpose(1, 2) for y in (q, k, v))
        d = (torch.arange(T)[None] - torch.arange(T)[:, None]).abs()
        a = q @ k.transpose(-2, -1) / math.sqrt(E // s.h) - s.m[:, None, None] * d
        return (a.softmax(-1) @ v).transpose(1, 2).reshape(B, T, E)


def alibi(h: int, d: int):
    return Alibi(h, d), torch.randn(2, 3, h * d)


class Mamba(nn.Module):
    def __init__(s, d, n, T):
        super().__init__()
        s.inp = nn.Linear(d, 2 * d, bias=False)
        s.conv = nn.Conv1d(d, d, 3, groups=d, padding=2)
        s.xp = nn.Linear(d, 2 * n + 1, bias=False)
        s.dt = nn.Linear(1, d)
        s.A = nn.Parameter(torch.log(torch.arange(1, n + 1).double()).repeat(d, 1))
        s.D = nn.Parameter(torch.ones(d))
        s.out = nn.Linear(d, d, bias=False)
        s.n = n

    def forward(s, u):
        T = u.shape[1]
        x, z = s.inp(u).chunk(2, -1)
        x = F.silu(s.conv(x.transpose(1, 2))[..., :T].transpose(1, 2))
        dt, B, C = s.xp(x).split([1, s.n, s.n], -1)
        dt = F.softplus(s.dt(dt))
        A = -torch.exp(s.A)
        h = torch.zeros(u.shape[0], x.shape[2], s.n)
        ys = []
        for t in range(T):
            h = torch.exp(dt[:, t, :, None] * A) * h + dt[:, t, :, None] * B[:, t, None, :] * x[:, t, :, None]
            ys.append((h * C[:, t, None, :]).sum(-1))
        y = torch.stack(ys, 1) + x * s.D
        return s.out(y * F.silu(z))


def mamba(d: int, n: int):
    return Mamba(d, n, 2), torch.randn(2, 2, d)


class InvRes(nn.Module):
    def __init__(s, c, e):
        super().__init__()
        s.m = nn.Sequential(
            nn.Conv2d(c, c * e, 1, bias=False),
            nn.BatchNorm2d(c * e),
            nn.ReLU6(),
            nn.Conv2d(c * e, c * e, 3, padding=1, groups=c * e, bias=False),
            nn.BatchNorm2d(c * e),
            nn.ReLU6(),
            nn.Conv2d(c * e, c, 1, bias=False),
            nn.BatchNorm2d(c),
        )

    def forward(s, x):
        return x + s.m(x)


def invres(c: int, e: int):
    return InvRes(c, e).eval(), torch.randn(2, c, 2, 2)


class GDN(nn.Module):
    def __init__(s, c):
        super().__init__()
        s.beta = nn.Parameter(torch.ones(c))
        s.gamma = nn.Parameter(torch.eye(c) * 0.1 + 0.1)

    def forward(s, x):
        return x / torch.sqrt(s.beta[:, None, None] + torch.einsum("ij,bjhw->bihw", s.gamma, x * x))


def gdn(c: int):
    return GDN(c), torch.randn(2, c, 2, 2)


class LlamaRMS(nn.Module):
    def __init__(s, n):
        super().__init__()
        s.w = nn.Parameter(torch.ones(n))
        s.l = nn.Linear(n, n)

    def forward(s, x):
        dt = x.dtype
        x = x.to(torch.float32)
        v = x.pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(v + 1e-6)
        return s.w * x.to(dt)


def llama(n: int):
    return LlamaRMS(n), torch.randn(2, n)


class Spatial(nn.Module):
    def __init__(s, c):
        super().__init__()
        s.c = nn.Conv2d(2, 1, 3, padding=1)

    def forward(s, x):
        return x * torch.sigmoid(s.c(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


def cbam(c: int):
    return Spatial(c), torch.randn(2, c, 2, 3)


class DyT(nn.Module):
    def __init__(s, n):
        super().__init__()
        s.a = nn.Parameter(torch.ones(1))
        s.g = nn.Parameter(torch.ones(n))
        s.b = nn.Parameter(torch.zeros(n))

    def forward(s, x):
        return s.g * torch.tanh(s.a * x) + s.b


def dyt(n: int):
    return DyT(n), torch.randn(2, n)


class Swin(nn.Module):
    def __init__(s, w, d):
        super().__init__()
        s.w = w
        s.qkv = nn.Linear(d, 3 * d)
        s.t = nn.Parameter(torch.randn((2 * w - 1) ** 2))
        c = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).flatten(1)
        r = (c[:, :, None] - c[:, None]).permute(1, 2, 0) + w - 1
        s.register_buffer("i", r[..., 0] * (2 * w - 1) + r[..., 1])

    def forward(s, x):
        B, H, W, C = x.shape
        w = s.w
        x = x.view(B, H // w, w, W // w, w, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, C)
        q, k, v = s.qkv(x).chunk(3, -1)
        a = q @ k.transpose(-2, -1) + s.t[s.i.view(-1)].view(w * w, w * w)
        x = a.softmax(-1) @ v
        return x.view(B, H // w, W // w, w, w, C).permute(0, 1, 3, 2, 4, 5).reshape(B, H, W, C)


def swin(w: int, d: int):
    return Swin(w, d), torch.randn(2, 2 * w, w, d)


def unf(c: int, o: int):
    class U(nn.Module):
        def __init__(s):
            super().__init__()
            s.l = nn.Linear(c * 4, o)

        def forward(s, x):
            return s.l(F.unfold(x, 2).transpose(1, 2))

    return U(), torch.randn(2, c, 3, 3)


class Deep(nn.Module):
    def __init__(s, n):
        super().__init__()
        s.l = nn.ModuleList([nn.Linear(n, n) for _ in range(4)])

    def forward(s, x):
        for l in s.l:
            x = torch.tanh(l(x))
        return x


def deep(n: int):
    return Deep(n), torch.randn(2, n)


def mha_div(e: int, h: int):
    return nn.MultiheadAttention(e, h, batch_first=True), (torch.randn(2, 3, e),) * 3


def mha_mask(h: int, d: int):
    class M(nn.Module):
        def __init__(s):
            super().__init__()
            s.a = nn.MultiheadAttention(h * d, h, batch_first=True)

        def forward(s, x):
            m = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
            return s.a(x, x, x, attn_mask=m, need_weights=False)[0]

    return M(), torch.randn(2, 3, h * d)


class QKN(nn.Module):
    def __init__(s, h, d):
        super().__init__()
        s.h = h
        s.qkv = nn.Linear(h * d, 3 * h * d, bias=False)
        s.qn = nn.LayerNorm(d)
        s.kn = nn.LayerNorm(d)
        s.p = nn.Linear(h * d, h * d)

    def forward(s, x):
        B, N, C = x.shape
        qkv = s.qkv(x).reshape(B, N, 3, s.h, C // s.h).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = s.qn(q), s.kn(k)
        x = F.scaled_dot_product_attention(q, k, v)
        return s.p(x.transpose(1, 2).reshape(B, N, C))


def timm_attn(h: int, d: int):
    return QKN(h, d), torch.randn(2, 2, h * d)


class SoftPlusGate(nn.Module):
    def __init__(s, n, h, k):
        super().__init__()
        s.g = nn.Linear(n, k, bias=False)
        s.e = nn.ModuleList([nn.Sequential(nn.Linear(n, h), nn.SiLU(), nn.Linear(h, n)) for _ in range(3)])

    def forward(s, x):
        w = F.softmax(s.g(x), -1)
        return sum(w[..., i : i + 1] * e(x) for i, e in enumerate(s.e))


def moe_list(n: int, h: int):
    return SoftPlusGate(n, h, 3), torch.randn(2, 4, n)


def unbatched(n: int, m: int):
    return nn.Linear(n, m), torch.randn(n)


def kwargs(n: int, m: int):
    return nn.Bilinear(n, m, 2), {"input1": torch.randn(2, n), "input2": torch.randn(2, m)}


def batch_named(batch: int, n: int):
    return nn.Linear(n, n + 1), torch.randn(batch, n)


MORE = (
    bil,
    rnn,
    prelu,
    inorm,
    conv3,
    tconv2,
    gconv,
    ps,
    up,
    apool,
    mpool,
    lstm,
    rnn_relu,
    wn,
    sn,
    bag,
    lrn,
    convnext,
    eca,
    patch,
    highway,
    film,
    t5,
    alibi,
    invres,
    gdn,
    cbam,
    dyt,
    swin,
    unf,
    deep,
    mha_mask,
    moe_list,
    unbatched,
    kwargs,
    batch_named,
)
