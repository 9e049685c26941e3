"""Geometries with different tilings for every kind of convolution, and errors of the C++ kernels against float64."""

from dataclasses import replace

from tests.codegen.targets.patch_problem import CENTRED, PLAIN, TURNED, error
from verify.checks.geometry import Geometry

_GATHERED = {  # different tilings: by rows or along the line, one register or many, whole or partial
    "by rows": Geometry(1, 3, 45, (3, 3), (1, 1), (1, 1), (1, 1), (5, 32), (0, 0)),
    "along the line": Geometry(1, 19, 21, (3, 3), (1, 1), (1, 1), (1, 1), (9, 7), (0, 0)),
    "steps and holes": Geometry(1, 9, 70, (3, 2), (2, 3), (2, 1), (2, 1), (17, 20), (0, 0)),
    "one entry": Geometry(1, 8, 8, (1, 1), (2, 2), (0, 0), (1, 1), (13, 33), (0, 0)),
    "as large as the image": Geometry(1, 4, 9, (5, 6), (1, 1), (0, 0), (1, 1), (5, 6), (0, 0)),
    "one axis": Geometry(1, 5, 33, (4,), (3,), (5,), (2,), (101,), (0,)),
    "three axes": Geometry(1, 2, 6, (2, 3, 2), (1, 2, 1), (1, 0, 1), (1, 1, 2), (4, 7, 9), (0, 0, 0)),
    "groups": Geometry(3, 5, 19, (3, 2), (2, 1), (1, 2), (1, 2), (7, 16), (0, 0)),
    "groups of few outputs": Geometry(2, 9, 3, (3, 3), (1, 1), (1, 1), (1, 1), (5, 32), (0, 0)),
    "a channel for several": Geometry(4, 1, 2, (3, 3), (1, 1), (1, 1), (1, 1), (9, 7), (0, 0)),
    "a channel each": Geometry(5, 1, 1, (5, 3), (1, 1), (2, 1), (1, 1), (9, 20), (0, 0)),
    "a channel each, steps and holes": Geometry(4, 1, 1, (3, 2), (2, 3), (2, 1), (2, 1), (17, 20), (0, 0)),
}
_SCATTERED = {  # the same names as above, so that tests can use them for any kind
    "by rows": Geometry(1, 3, 45, (3, 3), (1, 2), (1, 1), (1, 1), (5, 16), (0, 1)),
    "along the line": Geometry(1, 19, 21, (4, 4), (2, 2), (1, 1), (1, 1), (9, 7), (0, 0)),
    "steps and holes": Geometry(1, 9, 70, (3, 2), (2, 3), (2, 1), (2, 1), (7, 10), (1, 2)),
    "one entry": Geometry(1, 8, 8, (1, 1), (2, 2), (0, 0), (1, 1), (6, 17), (1, 0)),
    "as large as the image": Geometry(1, 4, 5, (5, 6), (3, 1), (2, 3), (1, 1), (3, 6), (2, 0)),
    "one axis": Geometry(1, 5, 33, (4,), (3,), (2,), (2,), (31,), (2,)),
    "three axes": Geometry(1, 2, 6, (2, 3, 2), (2, 1, 3), (1, 0, 1), (1, 1, 2), (3, 5, 4), (1, 0, 2)),
    "groups": Geometry(3, 5, 19, (3, 2), (2, 1), (1, 1), (1, 2), (5, 16), (1, 0)),
    "groups of few outputs": Geometry(2, 9, 3, (3, 3), (2, 2), (1, 1), (1, 1), (5, 13), (1, 1)),
    "a channel for several": Geometry(4, 1, 2, (3, 3), (2, 1), (3, 4), (1, 1), (9, 11), (0, 0)),
    "a channel each": Geometry(5, 1, 1, (5, 3), (2, 2), (2, 1), (1, 1), (5, 10), (0, 1)),
    "a channel each, steps and holes": Geometry(4, 1, 1, (3, 3), (3, 2), (1, 3), (2, 3), (7, 10), (0, 0)),
}
_SCATTERED = {name: replace(found, transposed=True) for name, found in _SCATTERED.items()}
GEOMETRIES = {PLAIN: _GATHERED, CENTRED: _GATHERED, TURNED: _SCATTERED}

SMALL = {PLAIN: Geometry(1, 3, 5, (3, 2), (2, 1), (1, 2), (1, 2), (7, 6), (0, 0))}
SMALL[CENTRED] = SMALL[PLAIN]
SMALL[TURNED] = Geometry(1, 3, 5, (3, 2), (2, 3), (2, 1), (1, 2), (4, 3), (1, 2), transposed=True)


def errors(case, tensors, g, **more):
    ours, exact = case.results(tensors, g, backend="cpp", **more), case.exact(tensors, g)
    assert all(a.shape == b.shape and a.dtype == tensors[0].dtype for a, b in zip(ours, exact, strict=True))
    return [error(a, b) for a, b in zip(ours, exact, strict=True)]
