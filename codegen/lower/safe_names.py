"""Safe names for generated code: a tensor whose name would shadow a name used by the code is renamed in it.

Public names (parameters of a module, arguments of functions) stay as in the layer; a name that cannot be public raises
an error.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping
from dataclasses import replace

from sympy import Symbol

from codegen.ir.program import gradient_name, tangent_name
from derive.algebra.nodes import rename, tensor
from derive.errors import UsageError
from derive.forward_map import BATCH, Definition, Layer

_CODE_WORDS = """
    ctx wanted kappa torch math F Any Tensor take put quotient within kept portable gradients info in_dims arguments
    inputs output outputs g g_out cotangent samples apply self name z_t annotations kernels threads ready plain Source
    Unpacked Array dtype forward given jax jnp partial tangent tangents wide with_gradients with_tangents patches
    geometry
"""
_MODULE_WORDS = """
    T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double dump_patches eval
    extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu load_state_dict modules
    mtia named_buffers named_children named_modules named_parameters parameters register_backward_hook register_buffer
    register_forward_hook register_forward_pre_hook register_full_backward_hook register_full_backward_pre_hook
    register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory
    state_dict to to_empty train training type xpu zero_grad
"""
_OUR_WORDS = """
    self device dtype kappa reset_parameters Tensor torch math nn functional check_kappa check_sizes Samples
    backend check_backend PLAIN
"""
_CODE = frozenset({*_CODE_WORDS.split(), *(name for name in dir(builtins) if not name.startswith("_"))})
# The public attributes of torch.nn.Module, which a parameter or a size would hide; a test compares them with torch.
MODULE_ATTRIBUTES = frozenset(_MODULE_WORDS.split())
_OURS = frozenset(_OUR_WORDS.split())


def check_public_names(layer: Layer, words: Iterable[str]) -> None:
    """Raise ``UsageError`` if a tensor or size has the name of another attribute of the generated module."""
    for word in words:
        if word in MODULE_ATTRIBUTES or word in _OURS:
            raise UsageError(
                f"layer {layer.name!r}: {word!r} would hide a name of torch.nn.Module or of the generated code; "
                "give the tensor or size another name"
            )


def local_names(layer: Layer) -> dict[str, str]:
    """Return the name in code of every tensor: its own, with an underscore added if the code uses it."""
    known = [t.name for t in (*layer.inputs, *layer.parameters)]
    known += [d.name for d in (*layer.definitions, layer.output)]
    made = {derived for name in known for derived in (gradient_name(name), tangent_name(name))}
    sizes = {str(s) for s in (*layer.sizes, *layer.scalars)}
    names: dict[str, str] = {}
    for name in known:
        code = name
        while (code != name and code in known) or code in {*_CODE, *made, *sizes, *names.values()}:
            code += "_"
        names[name] = code
    return names


def local_sizes(layer: Layer, values: Iterable[str]) -> dict[Symbol, str]:
    """Return the name in code of every size except the batch: its own, unless a value or the code uses it."""
    taken = {*values, *_CODE}
    names: dict[Symbol, str] = {}
    for size in layer.sizes:
        if size != BATCH.size:
            code = str(size)
            while code in taken:
                code += "_"
            names[size] = code
            taken.add(code)
    return names


def with_names(layer: Layer, names: Mapping[str, str]) -> Layer:
    """Return the layer with its tensors renamed; ``names`` has every tensor."""
    moved = {tensor(old): tensor(new) for old, new in names.items() if old != new}
    moved |= {t.base: replace(t, name=names[t.name]).base for t in layer.inputs if names[t.name] != t.name}

    def named(definition: Definition) -> Definition:
        expression = rename(definition.expression, moved)
        return Definition(names[definition.name], definition.indices, expression)

    return replace(
        layer,
        inputs=tuple(replace(t, name=names[t.name]) for t in layer.inputs),
        parameters=tuple(replace(t, name=names[t.name]) for t in layer.parameters),
        definitions=tuple(named(d) for d in layer.definitions),
        output=named(layer.output),
    )
