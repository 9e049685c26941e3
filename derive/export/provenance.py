"""Which results are the paper's and which are ours, and the works that the document cites.

The paper is George Bird, "The Affine Divergence", arXiv 2512.22247. Its body was not available, so even a result marked
as the paper's reconstructs a claim and never quotes a formula.
"""

from __future__ import annotations

PAPER = "bird2025affine"

REFERENCES: dict[str, str] = {
    PAPER: "George Bird. The Affine Divergence: Aligning Activation Updates Beyond Normalisation. "
    "arXiv:2512.22247, 2025.",
    "nagumo1967learning": "Jin-Ichi Nagumo, Atsuhiko Noda. A Learning Method for System Identification. "
    "IEEE Transactions on Automatic Control, 1967. (NLMS)",
    "benzing2022gradient": "Frederik Benzing. Gradient Descent on Neurons and its Link to Approximate Second-Order "
    "Optimization. ICML, 2022. (FOOF)",
    "martens2015optimizing": "James Martens, Roger Grosse. Optimizing Neural Networks with Kronecker-factored "
    "Approximate "
    "Curvature. ICML, 2015. (K-FAC)",
    "jacot2018neural": "Arthur Jacot, Franck Gabriel, Clément Hongler. Neural Tangent Kernel: Convergence and "
    "Generalization in Neural Networks. NeurIPS, 2018.",
    "ioffe2015batch": "Sergey Ioffe, Christian Szegedy. Batch Normalization: Accelerating Deep Network Training by "
    "Reducing "
    "Internal Covariate Shift. ICML, 2015.",
    "ba2016layer": "Jimmy Lei Ba, Jamie Ryan Kiros, Geoffrey E. Hinton. Layer Normalization. arXiv:1607.06450, 2016.",
    "zhang2019root": "Biao Zhang, Rico Sennrich. Root Mean Square Layer Normalization. NeurIPS, 2019.",
    "henry2020query": "Alex Henry, Prudhvi Raj Dachapally, Shubham Shantaram Pawar, Yuxuan Chen. Query-Key "
    "Normalization for "
    "Transformers. Findings of EMNLP, 2020.",
    "hu2022lora": "Edward J. Hu, Yelong Shen, Phillip Wallis, Zeyuan Allen-Zhu, Yuanzhi Li, Shean Wang, Lu Wang, "
    "Weizhu Chen. "
    "LoRA: Low-Rank Adaptation of Large Language Models. ICLR, 2022.",
}

_LAYER_CLAIMS = {
    "affine": "the abstract states the factor by which activations depart from steepest descent",
    "convolution": "the abstract states the patchwise divergence of convolution",
    "attention": "the abstract states the divergence of attention",
}
_AFFINE = ("affine", "attention-projection", "attention-output")
_MAP_CLAIMS = {
    "norm-like": "the author states that one correction is classical normalisation, derived without that motive",
    "affine-like": "the author states a second, affine-like correction; its form is inferred from its stated "
    "properties",
    "patch-norm": "the abstract states a family of normalisers inseparable from the convolution",
}


def layer_claim(name: str) -> str | None:
    """Return the claim of the paper that a layer's derivation reconstructs, or None if the derivation is ours."""
    return _LAYER_CLAIMS.get(_family(name))


def map_claim(layer: str, name: str) -> str | None:
    """Return the claim of the paper that a map reconstructs, or None if the map is ours."""
    if _family(layer) == "convolution":
        return _MAP_CLAIMS["patch-norm"]
    return _MAP_CLAIMS.get(name) if layer in _AFFINE else None


def _family(name: str) -> str:
    """Return the known family that begins the name, before a dash or a number; otherwise the name itself."""
    if ">" in name:
        return name
    for family in _LAYER_CLAIMS:
        if name == family or name.startswith((family + "-", family + "1", family + "2", family + "3")):
            return family
    return name
