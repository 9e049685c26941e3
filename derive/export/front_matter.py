"""The text around the derivations: set-up and disclaimer before them, origins and bibliography after them."""

from __future__ import annotations

from collections.abc import Sequence

from derive.export.blocks import (
    Bibliography,
    Block,
    Cite,
    Code,
    Equation,
    Heading,
    Items,
    Math,
    Paragraph,
    Table,
    prose,
)
from derive.export.provenance import PAPER, REFERENCES, layer_claim, map_claim
from derive.record import MEANINGS, Derivation


def opening(command: str = "affdiv latex") -> list[Block]:
    """Return the text before the first derivation; ``command`` is the command that wrote the document."""
    return [*_origin(command), *_setting(), *_conventions(), *_neighbours()]


def _origin(command: str) -> list[Block]:
    return [
        Paragraph(
            prose(
                "This document was written by {}: every equation in it was derived from a forward map by the engine in "
                "{}, none was typed. Every step and every statement of a result bears the verdict of its check. "
                "Independent evaluation computes values at random small sizes from the forward map, by code that "
                "shares only the nodes of expressions with the deriver.",
                Code(command),
                Code("derive/"),
            )
        ),
        Items(tuple(prose(f"[{status.value}]: {meaning}.") for status, meaning in MEANINGS.items())),
        Paragraph(
            (
                "Evaluation cannot prove a limit, a bound or injectivity: these are derived, and the check says that "
                "it found no counterexample.",
            )
        ),
        Heading(1, ("What is reconstructed",)),
        Paragraph(
            prose(
                "The derivations follow the idea of The Affine Divergence{}. The body of that paper was not available "
                "to "
                "this project: only its abstract, its author's posts and second-hand notes. The exact forms below are "
                "therefore reconstructed from the stated claims, and nothing here is a quotation. Each section says "
                "whether it reconstructs a claim of the paper or is ours.",
                Cite(PAPER),
            )
        ),
    ]


def _setting() -> list[Block]:
    return [
        Heading(1, ("Set-up",)),
        Paragraph(
            prose(
                "A layer maps an input to {}. The index {} runs over samples: every place where the same parameters "
                "are "
                "used. With {} the derivative of the loss, one step of plain gradient descent at rate {} on the "
                "parameters, the layer's input held fixed, moves the activation by",
                Math(r"z_{s} = F(\theta; x_{s})"),
                Math("s"),
                Math(r"g_{s} = \partial L / \partial z_{s}"),
                Math(r"\eta"),
            ),
            leads=True,
        ),
        Equation(None, r"\Delta z_{s}", (r"- \eta \sum_{s'} K_{s s'} g_{s'} + O \left( \eta^{2} \right)",)),
        Paragraph(
            prose(
                "where {} is the update kernel, this layer's block of the empirical neural tangent kernel{}. Steepest "
                "descent in the activations would be {}.",
                Math("K_{s s'}"),
                Cite("jacot2018neural"),
                Math(r"\Delta z_{s} = - \eta g_{s}"),
            )
        ),
        Items(
            (
                prose(
                    "The self factor {} is the effect of a sample's gradient on its own activation. Ideal is {} with "
                    "the "
                    "same {} for every sample.",
                    Math("K_{s s}"),
                    Math(r"\kappa I"),
                    Math(r"\kappa"),
                ),
                prose(
                    "The cross terms {} with {} are the interference between samples.",
                    Math("K_{s s'}"),
                    Math(r"s \ne s'"),
                ),
                prose("The divergence is the departure of the self factor from {}.", Math(r"\kappa I")),
            )
        ),
        Paragraph(
            (
                "An output axis that indexes a parameter is a unit; any other output axis is a sample. This follows "
                "from the "
                "forward map; no layer declares it.",
            )
        ),
    ]


def _conventions() -> list[Block]:
    return [
        Heading(1, ("Notation",)),
        Paragraph(
            prose(
                "Indices start at 0 and a sum {} runs over the whole axis of its index. {} is the Kronecker delta; the "
                "brackets {} and {} are 1 where the statement holds and 0 elsewhere. {} is the product, and {} the "
                "norm, "
                "over the last axis. A prime marks a second sample or unit, and on a tensor its value after the step. "
                "{} is the part of an output that depends on the parameter {}.",
                Math(r"\sum_{j}"),
                Math(r"\delta_{i i'}"),
                Math(r"\left[ 0 \le e < n \right]"),
                Math(r"\left[ d \mid e \right]"),
                Math(r"x_{s} \cdot x_{s'}"),
                Math(r"\lVert x_{s} \rVert"),
                Math(r"\langle W \rangle"),
                Math("W"),
            )
        ),
    ]


def _neighbours() -> list[Block]:
    return [
        Heading(1, ("Neighbours",)),
        Paragraph(
            prose(
                "Dividing a gradient by the energy of its input is the normalised least mean squares rule{}; removing "
                "the "
                "cross terms of a whole batch is FOOF{}, a relative of K-FAC{}. The normalising maps below have the "
                "form of "
                "batch{}, layer{} and root mean square{} normalisation.",
                Cite("nagumo1967learning"),
                Cite("benzing2022gradient"),
                Cite("martens2015optimizing"),
                Cite("ioffe2015batch"),
                Cite("ba2016layer"),
                Cite("zhang2019root"),
            )
        ),
    ]


def closing(derivations: Sequence[Derivation]) -> list[Block]:
    """Return the table of origins and the bibliography."""
    rows = []
    for derivation in derivations:
        rows.append(_origin_row(derivation.layer.title, layer_claim(derivation.layer.name)))
        for found in derivation.solutions:
            title, claim = f"{found.layer.title}, {found.name} map", map_claim(found.layer.name, found.name)
            rows.append(_origin_row(title, claim))
    header = (("derivation",), ("origin",))
    return [
        Heading(1, ("What is the paper's and what is ours",)),
        Table(header, tuple(rows)),
        Bibliography(tuple(REFERENCES.items())),
    ]


def _origin_row(name: str, claim: str | None) -> tuple[tuple[str], tuple[str]]:
    return (name,), (f"the paper: {claim}" if claim else "ours",)
