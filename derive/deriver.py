"""The stages of a derivation, each a property or a method; ``derive.update`` runs them.

No layer is special here, and the only update rule is plain gradient descent (``derive.rules`` has the others).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from sympy import Add, Expr, Indexed, IndexedBase, KroneckerDelta, Mul, Symbol

from derive.algebra.differentiate import carry_out, expand_definitions
from derive.algebra.equality import equal
from derive.algebra.index import Index
from derive.algebra.nodes import AtZero, IndexedSum, PartialDerivative, rename, tensor
from derive.algebra.normal import normalise
from derive.algebra.present import presentable
from derive.backward_pass import cotangent, entry_of, free_letters
from derive.forward_map import BATCH, Definition, Layer, LayerError, Tensor
from derive.kernel_forms import degree, general_law, strip_unit_deltas
from derive.record import Derivation, SelfFactor, Step

eta = Symbol("eta", positive=True)


@dataclass(frozen=True)
class Deriver:
    """The derivation of one layer; each property is one stage."""

    layer: Layer

    @cached_property
    def output(self) -> Definition:
        """The definition of the output."""
        return self.layer.output

    @cached_property
    def primes(self) -> dict[Index, Index]:
        """Each output index with its primed partner: the second sample or unit of a kernel."""
        return {i: i.primed() for i in self.output.indices}

    @cached_property
    def cotangent(self) -> Expr:
        """``g[s, i]``, the loss gradient at the output."""
        return cotangent(self.layer)

    @cached_property
    def entries(self) -> dict[str, Indexed]:
        """Each parameter's entry at fresh indices: ``W[a, b]``."""
        letters = free_letters(self.layer)
        return {p.name: entry_of(p, letters) for p in self.parameters}

    @cached_property
    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters that the output depends on."""
        mentioned = self.expanded.atoms(IndexedBase)
        used = tuple(p for p in self.layer.parameters if p.base in mentioned)
        if not used:
            raise LayerError(f"layer {self.layer.name!r} depends on no parameter: there is no update to derive")
        return used

    @cached_property
    def expanded(self) -> Expr:
        """The output in terms of the parameters and of terms that do not depend on them."""
        return expand_definitions(self.output.expression, self.layer.parametric_scope)

    @cached_property
    def definitions(self) -> tuple[Definition, ...]:
        """The intermediates and the output."""
        return (*self.layer.definitions, self.output)

    @property
    def shown(self) -> Mapping[IndexedBase, Definition]:
        """The intermediates by which results may abbreviate their expressions."""
        return self.layer.scope

    @property
    def moved(self) -> tuple[Definition, ...]:
        """What a step on the parameters moves, in order: the intermediates and the output."""
        return self.definitions

    @cached_property
    def gradients(self) -> dict[str, Expr]:
        """``dz[s, i] / dW[a, b]`` for each parameter, in normal form."""
        return {
            name: normalise(carry_out(PartialDerivative(self.output.expression, entry), self.layer.scope))
            for name, entry in self.entries.items()
        }

    @cached_property
    def units(self) -> tuple[Index, ...]:
        """Output indices that by themselves index a parameter."""
        bases = {p.base for p in self.parameters}
        plain = {
            i
            for entry in normalise(self.expanded).atoms(Indexed)
            if entry.base in bases
            for i in entry.indices
            if isinstance(i, Index)
        }
        return tuple(i for i in self.output.indices if i in plain)

    @cached_property
    def samples(self) -> tuple[Index, ...]:
        """Output indices that index no parameter by themselves."""
        return tuple(i for i in self.output.indices if i not in self.units)

    def by_loss(self, expression: Expr) -> Expr:
        """Sum an expression times the cotangent over all outputs, at primed indices."""
        return IndexedSum(rename(self.cotangent * expression, self.primes), *self.primes.values())

    @cached_property
    def unfactored_kernel(self) -> Expr:
        """The kernel as the plain sum over parameters of products of gradients, in normal form."""
        return Add(*self.kernel_by_parameter.values())

    @cached_property
    def kernel_by_parameter(self) -> dict[str, Expr]:
        """The contribution of each parameter to the kernel, in normal form."""
        return {
            name: normalise(
                IndexedSum(self.gradients[name] * rename(self.gradients[name], self.primes), *entry.indices)
            )
            for name, entry in self.entries.items()
        }

    @cached_property
    def pairs(self) -> list[tuple[Index, Index]]:
        """Each unit index with its primed partner."""
        return [(i, self.primes[i]) for i in self.units]

    @cached_property
    def cross_terms(self) -> Expr:
        """How one sample's gradient moves another sample: the scalar before the unit deltas, or the whole kernel."""
        stripped = strip_unit_deltas(self.unfactored_kernel, self.pairs)
        return presentable(self.unfactored_kernel if stripped is None else stripped, self.layer.scope)

    @cached_property
    def kernel(self) -> Expr:
        """The kernel as it is printed: unit deltas times the rest, where it has that shape."""
        if strip_unit_deltas(self.unfactored_kernel, self.pairs) is None:
            return self.cross_terms
        return Mul(*(KroneckerDelta(*pair) for pair in self.pairs)) * self.cross_terms

    @cached_property
    def self_factor_entry(self) -> Expr:
        """``K`` at one sample, for a pair of units."""
        together = {self.primes[i]: i for i in self.samples}
        return normalise(rename(self.unfactored_kernel, together))

    @cached_property
    def order_in_eta(self) -> int | None:
        """The highest power of eta in the change of the activation; None when it is no polynomial."""
        return degree(normalise(self.expanded), {p.base for p in self.parameters})

    @cached_property
    def unpresented(self) -> Expr:
        """The self factor in normal form, without unit deltas where they factor out."""
        diagonal = strip_unit_deltas(self.self_factor_entry, self.pairs)
        return self.self_factor_entry if diagonal is None else diagonal

    def classify(self) -> SelfFactor:
        """Return the self factor and its shape: isotropic, diagonal or full."""
        entry = self.self_factor_entry
        diagonal = strip_unit_deltas(entry, self.pairs)
        shape = "full"
        if diagonal is not None:
            shape = "diagonal" if diagonal.free_symbols & set(self.units) else "isotropic"
            entry = diagonal
        bases = {p.base for p in self.layer.parameters}
        free = not (expand_definitions(entry, self.layer.parametric_scope).atoms(IndexedBase) & bases)
        return SelfFactor(presentable(entry, self.layer.scope), shape, free)

    def step(self, name: str, rule: str, target: Expr, before: Expr, after: Expr, *scope: Definition) -> Step:
        """Return a step of this layer, with the layer's definitions in scope."""
        return Step(f"{self.layer.name}/{name}", rule, target, before, after, (*self.definitions, *scope))

    def gradient_steps(self) -> list[Step]:
        """Parameter gradients, loss gradients and the updated parameters."""
        steps = []
        for name, entry in self.entries.items():
            inert = PartialDerivative(self.output.expression, entry)
            target = PartialDerivative(self.output.entry, entry)
            steps.append(
                self.step(
                    f"parameter-gradient-{name}",
                    f"differentiate with respect to `{name}`; derivatives of entries are products of deltas",
                    target,
                    inert,
                    self.gradients[name],
                )
            )
        for name in self.entries:
            before = self.by_loss(PartialDerivative(self.output.entry, self.entries[name]))
            rule = "chain rule over every output that uses the parameter; sum out the deltas"
            steps.append(self.step(f"loss-gradient-{name}", rule, before, before, self.loss_gradients[name]))
        return steps

    @cached_property
    def loss_gradients(self) -> dict[str, Expr]:
        """The gradient of the loss with respect to each parameter, in normal form."""
        return {name: normalise(self.by_loss(gradient)) for name, gradient in self.gradients.items()}

    @cached_property
    def updated(self) -> tuple[Definition, ...]:
        """The parameters after one SGD step and everything that depends on them, as primed definitions."""
        fresh: list[Definition] = []
        for parameter in self.parameters:
            entry = self.entries[parameter.name]
            moved = entry - eta * self.loss_gradients[parameter.name]
            fresh.append(Definition(parameter.name + "'", entry.indices, moved))
        renamed = {p.base: tensor(p.name + "'") for p in self.parameters}
        for definition in self.moved:
            expression = rename(definition.expression, renamed)
            if expression != definition.expression:
                fresh.append(Definition(definition.name + "'", definition.indices, expression))
                renamed[definition.base] = fresh[-1].base
        return tuple(fresh)

    def change_steps(self) -> list[Step]:
        """The SGD step on each parameter, and the activation's change."""
        steps = []
        for name, entry in self.entries.items():
            before = entry - eta * self.by_loss(PartialDerivative(self.output.entry, entry))
            after = entry - eta * self.loss_gradients[name]
            target = tensor(name + "'")[entry.indices]
            steps.append(self.step(f"sgd-step-{name}", "one step of gradient descent", target, before, after))
        after_step = tensor(self.output.name + "'")[self.output.indices]
        exact = self.order_in_eta == 1
        before = after_step - self.output.entry if exact else eta * AtZero(after_step, eta)
        change = -eta * normalise(
            IndexedSum(self.unfactored_kernel * rename(self.cotangent, self.primes), *self.primes.values())
        )
        rule = "insert the step into the forward map" + (
            "; the map is linear in the parameters, so this is exact for any `eta`"
            if exact
            else ", to first order in `eta`"
        )
        target = after_step - self.output.entry
        return [*steps, self.step("activation-change", rule, target, before, change, *self.updated)]

    @cached_property
    def products(self) -> Expr:
        """The update kernel before it is simplified: products of inert gradients, summed over parameter entries."""
        here, there = self.output.entry, rename(self.output.entry, self.primes)
        return Add(
            *(
                IndexedSum(PartialDerivative(here, entry) * PartialDerivative(there, entry), *entry.indices)
                for entry in self.entries.values()
            )
        )

    @cached_property
    def kernel_entry(self) -> Expr:
        """``K[s, i, s', i']``, under a name that no tensor and no scalar of the layer has."""
        layer = self.layer
        used = {t.name for t in (*layer.inputs, *layer.parameters)} | {d.name for d in self.definitions}
        used |= {s.name for s in layer.scalars}
        name = next(n for n in ("K", "K_z", "K_out", "KK") if n not in used)
        return tensor(name)[(*self.output.indices, *self.primes.values())]

    @cached_property
    def own_entry(self) -> Expr:
        """``K[s, i, s, i]``: the kernel entry of one output."""
        return self.kernel_entry.base[(*self.output.indices, *self.output.indices)]

    def self_factor_step(self, factor: SelfFactor) -> Step:
        """The step from the products of gradients to the self factor."""
        together = {self.primes[i]: i for i in self.samples}
        here, before = rename(self.kernel_entry, together), rename(self.products, together)
        deltas = Mul(*(KroneckerDelta(i, self.primes[i]) for i in self.units))
        after = factor.expression if factor.shape == "full" else deltas * factor.expression
        return self.step("self-factor", "set both samples equal", here, before, after)

    def kernel_steps(self, factor: SelfFactor) -> list[Step]:
        """Update kernel, self factor and cross terms."""
        rule = "sum the products of gradients over every parameter entry"
        return [
            self.step("update-kernel", rule, self.kernel_entry, self.products, self.kernel),
            self.self_factor_step(factor),
            self.step("cross-terms", "two different samples", self.kernel_entry, self.products, self.kernel),
        ]

    def law_steps(self, factor: SelfFactor) -> list[Step]:
        """The general law, where it holds: the operator of the forward map applied to squares, every weight one."""
        bases = {p.base for p in self.parameters}
        # The normal form may have eliminated an index of the parameter by a delta, so the map as written is tried too.
        laws = (general_law(form, bases) for form in (normalise(self.expanded), self.expanded))
        law = next((law for law in laws if law is not None and equal(law, self.unpresented)), None)
        if law is None or factor.shape == "full":
            return []
        rule = "each parameter entry is used at most once in an output: the self factor is the same operator on squares"
        return [self.step("general-law", rule, self.own_entry, normalise(law), factor.expression)]

    def mean_steps(self, factor: SelfFactor) -> list[Step]:
        """The step that shows the batch mean of the self factor, where the definitions make it a constant."""
        over_the_batch = any(BATCH not in d.indices for d in self.layer.definitions)
        if BATCH not in self.samples or not over_the_batch or not factor.expression.atoms(Indexed):
            return []
        mean = IndexedSum(factor.expression, BATCH) / BATCH.size
        value = presentable(normalise(mean), self.layer.scope)
        if value.atoms(Indexed):
            return []
        return [
            self.step(
                "mean-self-factor",
                "average over the batch",
                IndexedSum(self.own_entry, BATCH) / BATCH.size,
                mean,
                value,
            )
        ]

    def forward_steps(self) -> list[Step]:
        """The forward map itself, intermediates first."""
        steps = [
            self.step(f"define-{d.name}", f"intermediate `{d.name}` of the forward map", d.entry, d.entry, d.expression)
            for d in self.layer.definitions
        ]
        out = self.output
        return [*steps, self.step("forward", "the forward map", out.entry, out.entry, out.expression)]

    def derivation(self) -> Derivation:
        """Run every stage."""
        from derive.parts import part_steps

        factor = self.classify()
        steps = [*self.forward_steps(), *self.gradient_steps(), *self.change_steps(), *self.kernel_steps(factor)]
        steps += [*self.law_steps(factor), *self.mean_steps(factor), *part_steps(self)]
        return Derivation(
            layer=self.layer,
            rule="sgd",
            steps=tuple(steps),
            kernel=self.kernel,
            self_factor=factor,
            cross_terms=self.cross_terms,
            order_in_eta=self.order_in_eta,
            samples=self.samples,
            units=self.units,
        )
