"""Generated attention: against an independent reference, against torch, and its defining identities."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import affine_divergence as ad

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

Attention = ad.AffineLikeMultiheadAttention
DOUBLE = torch.float64
N, L, S, E, H = 2, 3, 5, 8, 2
KDIM, VDIM = 6, 7


def make(dtype=DOUBLE, **settings):
    torch.manual_seed(0)
    module = Attention(E, H, dtype=dtype, **settings)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def tokens(module, batched=True, seed=1, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(L, N, E), (S, N, module.kdim), (S, N, module.vdim)]
    found = [torch.randn(s, generator=generator, dtype=DOUBLE).to(dtype) for s in shapes]
    if not batched:
        found = [t[:, 0] for t in found]
    elif module.batch_first:
        found = [t.transpose(0, 1) for t in found]
    return [t.clone().requires_grad_() for t in found]


def cancelled(x, W, b):
    """Return the affine-like map of one token, written independently."""
    return (W @ x + b) / torch.sqrt(x @ x + 1)


def projections(module):
    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.chunk(3)
    else:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    return list(zip(weights, module.in_proj_bias.chunk(3), strict=True))


def reference(module, query, key, value, added=None):
    """Return attention for one sequence, (L, E) and (S, ..), by token and head; ``added`` (H, L, S) shifts scores."""
    (Wq, bq), (Wk, bk), (Wv, bv) = projections(module)
    d, more = E // H, (module.bias_k is not None) + module.add_zero_attn
    outputs, weights = [], []
    for t in range(len(query)):
        context = []
        for h in range(H):
            rows = slice(h * d, (h + 1) * d)
            keys = [cancelled(y, Wk[rows], bk[rows]) for y in key]
            values = [cancelled(y, Wv[rows], bv[rows]) for y in value]
            if module.bias_k is not None:
                keys.append(module.bias_k[0, 0, rows])
                values.append(module.bias_v[0, 0, rows])
            if module.add_zero_attn:
                keys.append(torch.zeros(d, dtype=DOUBLE))
                values.append(torch.zeros(d, dtype=DOUBLE))
            q = cancelled(query[t], Wq[rows], bq[rows])
            if module.qk_norm:
                lengths = [k.norm() if k.any() else 1.0 for k in keys]
                scores = torch.stack([q @ k * d**0.5 / (q.norm() * n) for k, n in zip(keys, lengths, strict=True)])
            else:
                scores = torch.stack([q @ k / d**0.5 for k in keys])
            if added is not None:
                scores = scores + torch.cat([added[h, t], added.new_zeros(more)])
            A = torch.softmax(scores, 0)
            weights.append(A)
            if module.value_path:
                a = A[: len(value)]
                xbar = sum(w * y for w, y in zip(a, value, strict=True)) / a.sum()
                context.append(cancelled(xbar, Wv[rows], bv[rows]))
            else:
                context.append(sum(w * v for w, v in zip(A, values, strict=True)))
        outputs.append(cancelled(torch.cat(context), module.out_proj.weight, module.out_proj.bias))
    return torch.stack(outputs), torch.stack(weights).view(len(query), H, -1).transpose(0, 1)


def masks(kind, batch=N):
    """Return ``attn_mask``, ``key_padding_mask`` and their sum for the scores (batch, H, L, S)."""
    generator = torch.Generator().manual_seed(3)
    excluded = torch.rand(batch * H, L, S, generator=generator) < 0.3
    padded = torch.zeros(batch, S, dtype=torch.bool)
    padded[0, -2:] = True
    excluded[..., 0] = False
    attn, padding = None, None
    added = torch.zeros(batch, H, L, S, dtype=DOUBLE)
    if "2d" in kind:
        attn = excluded[0]
        added = added + torch.zeros(L, S, dtype=DOUBLE).masked_fill(attn, -math.inf)
    if "3d" in kind:
        attn = excluded
        added = added + torch.zeros(batch, H, L, S, dtype=DOUBLE).masked_fill(attn.view(batch, H, L, S), -math.inf)
    if "float" in kind:
        attn = torch.randn(L, S, dtype=DOUBLE, generator=generator)
        added = added + attn
    if "padding" in kind:
        padding = padded
        added = added.masked_fill(padded[:, None, None], -math.inf)
    return attn, padding, added


SETTINGS = {
    "plain": {},
    "batch first": {"batch_first": True},
    "kdim and vdim": {"kdim": KDIM, "vdim": VDIM},
    "more keys": {"add_bias_kv": True, "add_zero_attn": True},
    "qk norm": {"qk_norm": True, "add_bias_kv": True},
    "value path": {"value_path": True},
    "value path of other width": {"value_path": True, "vdim": VDIM, "batch_first": True},
    "value path with a zero": {"value_path": True, "add_zero_attn": True, "qk_norm": True},
}
settings = pytest.mark.parametrize("name", SETTINGS)


@settings
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kind", ["none", "2d", "3d padding", "float", "padding"])
def test_value_and_gradients_equal_the_reference(name, need_weights, kind):
    module = make(**SETTINGS[name])
    inputs = tokens(module)
    attn, padding, added = masks(kind)
    z, weights = module(*inputs, padding, need_weights, attn, False)
    sequences = [t if module.batch_first else t.transpose(0, 1) for t in inputs]
    pairs = [reference(module, *(t[n] for t in sequences), added[n]) for n in range(N)]
    expected = torch.stack([p[0] for p in pairs], 0 if module.batch_first else 1)
    torch.testing.assert_close(z, expected)
    if need_weights:
        torch.testing.assert_close(weights, torch.stack([p[1] for p in pairs]))
    else:
        assert weights is None
    wanted = [*inputs, *(p for p in module.parameters())]
    cotangent = torch.randn_like(z)
    gradients = [torch.autograd.grad(out, wanted, cotangent, allow_unused=True) for out in (z, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@settings
def test_without_a_batch(name):
    module = make(**SETTINGS[name])
    inputs = tokens(module, batched=False)
    padding = torch.tensor([False, False, True, False, True])
    attn = torch.zeros(H, L, S, dtype=torch.bool)
    attn[1, :, 0] = True
    added = torch.zeros(H, L, S, dtype=DOUBLE).masked_fill(attn | padding, -math.inf)
    expected, by_head = reference(module, *inputs, added)
    z, weights = module(*inputs, padding, attn_mask=attn)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(weights, by_head.mean(0))
    torch.testing.assert_close(module(*inputs, padding, False, attn)[0], expected)


def as_torch(module):
    """Return torch's attention with the same parameters."""
    names = ("embed_dim", "num_heads", "dropout", "add_zero_attn", "kdim", "vdim", "batch_first")
    twin = nn.MultiheadAttention(
        **{n: getattr(module, n) for n in names},
        add_bias_kv=module.bias_k is not None,
        dtype=module.in_proj_bias.dtype,
    )
    twin.load_state_dict(module.state_dict())
    return twin


@settings
def test_state_dicts_load_both_ways(name):
    module = make(**SETTINGS[name])
    twin = as_torch(module)
    assert {k: v.shape for k, v in module.state_dict().items()} == {k: v.shape for k, v in twin.state_dict().items()}
    assert {k for k, _ in module.named_parameters()} == {k for k, _ in twin.named_parameters()}
    fresh = Attention(E, H, dtype=DOUBLE, **SETTINGS[name])
    fresh.load_state_dict(twin.state_dict())
    inputs = tokens(module)
    for other in (fresh, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(*inputs)[0], module(*inputs)[0])


@pytest.mark.parametrize("options", [{}, {"kdim": KDIM, "vdim": VDIM}, {"add_bias_kv": True, "add_zero_attn": True}])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_torch_agrees_where_nothing_is_divided(options, batch_first, need_weights):
    """If all tokens have the same length, torch computes the same numbers, masks, shapes and weights.

    An affine-like projection is torch's divided by the length of [x; 1]. So torch's parameters are divided by the one
    length that all tokens share.
    """
    module = make(batch_first=batch_first, **options)
    twin = as_torch(module)
    inputs = []
    for t in tokens(module):
        inputs.append((3 * t / t.norm(dim=-1, keepdim=True)).detach())
    with torch.no_grad():
        for parameter in (twin.in_proj_weight, twin.q_proj_weight, twin.k_proj_weight, twin.v_proj_weight):
            if parameter is not None:
                parameter /= 10**0.5
        twin.in_proj_bias /= 10**0.5
    seen = {}
    module.out_proj.register_forward_hook(lambda m, a, z: seen.update(context=a[0]))
    attn, padding, _ = masks("3d padding")
    padding[1] = True  # a sequence with all keys masked
    for average in (True, False):
        ours, weights = module(*inputs, padding, need_weights, attn, average)
        theirs, expected = twin(*inputs, padding, need_weights, attn, average)
        lengths = torch.sqrt(seen["context"].square().sum(-1, keepdim=True) + 1)
        torch.testing.assert_close(ours * lengths, theirs, equal_nan=True)
        if need_weights:
            torch.testing.assert_close(weights, expected, equal_nan=True)
    assert bool(ours.isfinite().all()) == (not need_weights or "add_zero_attn" in options)


def test_a_causal_hint_gives_what_the_mask_gives():
    module = make()
    x = torch.randn(L, N, E, dtype=DOUBLE)
    mask = nn.Transformer.generate_square_subsequent_mask(L, dtype=DOUBLE)
    plain = module(x, x, x, attn_mask=mask)[0]
    for need_weights in (True, False):
        for options in ({}, {"key_padding_mask": torch.zeros(N, L, dtype=torch.bool)}):
            hinted = module(x, x, x, need_weights=need_weights, attn_mask=mask, is_causal=True, **options)[0]
            torch.testing.assert_close(hinted, plain)
    added = make(add_zero_attn=True)
    expected = added(x, x, x, attn_mask=mask)[0]
    torch.testing.assert_close(added(x, x, x, need_weights=False, attn_mask=mask, is_causal=True)[0], expected)


def test_one_product_for_self_attention_gives_what_three_give():
    module = make()
    x = torch.randn(L, N, E, dtype=DOUBLE)
    torch.testing.assert_close(module(x, x, x)[0], module(x, x.clone(), x.clone())[0])


PARTS = {"query": 0, "key": 1, "value": 2}


@pytest.mark.parametrize("options", [{}, {"kdim": KDIM, "vdim": VDIM}])
@pytest.mark.parametrize("part", [*PARTS, "output"])
def test_a_step_moves_the_projection_of_a_token_by_kappa_times_its_gradient(part, options):
    """One token, its own gradient: the projection moves by exactly -eta kappa g, whatever the token's length."""
    module, eta = make(**options), 0.3
    width = E if part in ("query", "output") else (module.kdim, module.vdim)[part == "value"]
    x = 5 * torch.randn(1, 1, width, dtype=DOUBLE)

    def project():
        if part == "output":
            return module.out_proj(x)
        W, b = projections(module)[PARTS[part]]
        return ad.functional.affine_like(x, W, b, module.kappa)

    g = torch.randn(1, 1, E, dtype=DOUBLE)
    before = project()
    before.backward(g)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= eta * parameter.grad
    torch.testing.assert_close(project() - before, -eta * module.kappa * g)


def context_of(module, inputs, **options):
    """Return the input of the output projection."""
    seen = []
    handle = module.out_proj.register_forward_hook(lambda m, arguments, z: seen.append(arguments[0]))
    module(*inputs, **options)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("options", [{}, {"add_zero_attn": True}, {"dropout": 0.4}, {"vdim": VDIM}, {"qk_norm": True}])
def test_a_step_on_the_value_path_moves_each_context_by_kappa_times_its_gradient(options, need_weights):
    """The attention weights are held fixed: only the value projection takes the step."""
    module, eta = make(value_path=True, **options), 0.3
    inputs = [5 * t.detach() for t in tokens(module)]
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    weight = module.in_proj_weight if module.in_proj_weight is not None else module.v_proj_weight
    rows = slice(2 * E, 3 * E) if module.in_proj_weight is not None else slice(None)
    for leaf in (weight, module.in_proj_bias):
        leaf.requires_grad_()
    torch.manual_seed(7)
    before = context_of(module, inputs, need_weights=need_weights)
    g = torch.zeros_like(before)
    g[1, 0] = torch.randn(E, dtype=DOUBLE)  # the gradient of one token
    gradients = torch.autograd.grad(before, (weight, module.in_proj_bias), g)
    with torch.no_grad():
        weight[rows] -= eta * gradients[0][rows]
        module.in_proj_bias[2 * E :] -= eta * gradients[1][2 * E :]
    torch.manual_seed(7)  # the same weights are dropped again
    after = context_of(module, inputs, need_weights=need_weights)
    torch.testing.assert_close((after - before)[1, 0], -eta * module.kappa * g[1, 0])


def test_unit_queries_and_keys_do_not_feel_a_length():
    module = make(qk_norm=True)
    x = torch.randn(L, N, E, dtype=DOUBLE)
    _, weights = module(x, x, x)
    with torch.no_grad():
        module.in_proj_weight[: 2 * E] *= 7
        module.in_proj_bias[: 2 * E] *= 7
    torch.testing.assert_close(module(x, x, x)[1], weights)
    assert module.score_scale == (E // H) ** 0.5
    module.score_scale = 0.0
    torch.testing.assert_close(module(x, x, x)[1], torch.full((N, L, L), 1 / L, dtype=DOUBLE))


@settings
def test_second_derivatives(name):
    module = make(**SETTINGS[name])
    inputs = tokens(module)
    assert torch.autograd.gradcheck(lambda *t: module(*t, need_weights=False)[0], inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *t: module(*t)[0], inputs, fast_mode=True)


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ("batch first", "kdim and vdim", "more keys")]


@pytest.mark.parametrize("name", ["plain", "value path with a zero", *SLOWER])
def test_compiled_in_one_graph(name):
    torch._dynamo.reset()  # all modules of a class share one limit of recompilations
    module = make(**SETTINGS[name]).eval()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    inputs = tokens(module)
    attn, padding, _ = masks("2d padding")
    for need_weights in (True, False):
        ours, plain = (f(*inputs, padding, need_weights, attn)[0] for f in (compiled, module))
        torch.testing.assert_close(ours, plain)
        gradients = [torch.autograd.grad(z.square().sum(), inputs) for z in (ours, plain)]
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)


@settings
@pytest.mark.parametrize("need_weights", [True, False])
def test_autocast(name, need_weights):
    module = make(torch.float32, **SETTINGS[name])
    inputs = tokens(module, dtype=torch.float32)
    exact, _ = module(*inputs, need_weights=need_weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, _ = module(*inputs, need_weights=need_weights)
    assert z.dtype == torch.bfloat16
    torch.testing.assert_close(z.float(), exact, rtol=0.1, atol=0.1)
    z.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in module.parameters() if p.grad is not None)


@settings
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e30), (torch.bfloat16, 1e30), (torch.float16, 1e4)])
def test_long_tokens_give_finite_results(name, dtype, size):
    module = make(dtype, **SETTINGS[name])
    inputs = [t * size for t in tokens(module, dtype=dtype)]
    for need_weights in (True, False):
        z, _ = module(*inputs, need_weights=need_weights)
        assert z.dtype == dtype and z.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(z.float().sum(), list(inputs)))


def test_dropout_only_while_training():
    module = make(dropout=0.5)
    x = torch.randn(L, N, E, dtype=DOUBLE)
    _, weights = module(x, x, x)
    assert (weights == 0).any() or not torch.allclose(weights.sum(-1), torch.ones(N, L, dtype=DOUBLE))
    module.eval()
    torch.testing.assert_close(module(x, x, x)[0], module(x, x, x, need_weights=False)[0])


def test_projections_start_with_unit_variance():
    torch.manual_seed(0)
    module = Attention(256, 4)
    q = module._projected((torch.randn(64, 256),))[0]
    assert abs(q.var().item() - 1) < 0.1
    assert not module.in_proj_bias.any() and not module.out_proj.bias.any()


def test_torch_does_not_bypass_it_in_an_encoder():
    """In evaluation mode torch's encoder layer would otherwise compute plain attention from the parameters."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(E, H, 16, batch_first=True, dropout=0.0)
    layer.self_attn = Attention(E, H, batch_first=True)
    x = torch.randn(N, L, E)
    trained = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), trained)


def test_on_the_meta_device():
    module = Attention(E, H, device="meta", value_path=True, qk_norm=True)
    x = torch.empty(L, N, E, device="meta")
    z, weights = module(x, x, x)
    assert z.shape == (L, N, E) and weights.shape == (N, L, L)


def test_it_says_its_settings():
    text = repr(Attention(E, H, 0.1, batch_first=True, value_path=True))
    assert "(embed_dim=8, num_heads=2, dropout=0.1" in text.replace("\n  ", "(").replace("((", "(")
    assert "batch_first=True, value_path=True" in text and "out_proj" in text


x3, x2 = torch.ones(L, N, E), torch.ones(L, E)
MISTAKES = {
    "no bias": (lambda: Attention(E, H, bias=False), ValueError, "exists only with a bias; keep the bias"),
    "heads": (lambda: Attention(E, 3), ValueError, "embed_dim is 8 and num_heads 3"),
    "no heads": (lambda: Attention(E, 0), ValueError, "num_heads is 0; give a positive integer"),
    "kdim": (lambda: Attention(E, H, kdim=-1), ValueError, "kdim is -1"),
    "dropout": (lambda: Attention(E, H, 1.5), ValueError, "dropout is 1.5; give a probability"),
    "no dropout": (lambda: Attention(E, H, "a"), TypeError, "dropout is a str"),
    "both": (lambda: Attention(E, H, value_path=True, add_bias_kv=True), ValueError, "leave one of the two out"),
    "list": (lambda: Attention(E, H)([1.0], x3, x3), TypeError, "query is a list; give a tensor"),
    "axes": (lambda: Attention(E, H)(x3[None], x3, x3), ValueError, "query has shape .*; give 2 axes"),
    "mixed": (lambda: Attention(E, H)(x3, x2, x2), ValueError, "key has 2 axes, query 3"),
    "width": (lambda: Attention(E, H)(x3, x3[..., 1:], x3), ValueError, "key has shape .*length 8"),
    "vdim": (lambda: Attention(E, H, vdim=3)(x3, x3, x3), ValueError, "value has shape .*length 3"),
    "lengths": (lambda: Attention(E, H)(x3, x3, x3[1:]), ValueError, "each key needs one value"),
    "batch": (lambda: Attention(E, H)(x3, x3[:, 1:], x3[:, 1:]), ValueError, "axis 1 is the batch"),
    "hint": (lambda: Attention(E, H)(x3, x3, x3, is_causal=True), ValueError, "there is none; give the mask too"),
    "integers": (lambda: Attention(E, H)(x3, x3, x3, attn_mask=torch.ones(L, L).long()), TypeError, "int64"),
    "mask": (lambda: Attention(E, H)(x3, x3, x3, attn_mask=torch.ones(L, S)), ValueError, r"give \(3, 3\)"),
    "heads' mask": (lambda: Attention(E, H)(x3, x3, x3, attn_mask=torch.ones(N, L, L)), ValueError, r"\(4, 3, 3\)"),
    "padding": (lambda: Attention(E, H)(x3, x3, x3, torch.ones(L)), ValueError, r"key_padding_mask.*\(2, 3\)"),
    "one padding": (lambda: Attention(E, H)(x2, x2, x2, torch.ones(1, L)), ValueError, r"give \(3,\)"),
    "no mask": (lambda: Attention(E, H)(x3, x3, x3, [True]), TypeError, "key_padding_mask is a list"),
    "types": (lambda: Attention(E, H)(x3.double(), x3, x3), TypeError, "the types differ"),
    "value types": (lambda: Attention(E, H, value_path=True)(x3, x3, x3.double()), TypeError, "the types differ"),
    "whole numbers": (lambda: Attention(E, H)(x3.long(), x3, x3), TypeError, "torch.int64"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_message(mistake):
    call, error, words = MISTAKES[mistake]
    with pytest.raises(error, match=words):
        call()
