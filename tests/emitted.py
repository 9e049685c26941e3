"""The paths of the files of a generated package, for tests that read, damage or import them."""

import functools

from codegen.compiler import build


@functools.cache
def _shipped():
    return build()


def shipped():
    """The files of the shipped package by path, derived once per process; a copy that a test may change."""
    return dict(_shipped())


def file_of(target, name):
    """The path of a map's file for a target, such as ``kernels/cpp/affine_like.cpp``."""
    return f"kernels/{target}/{name}"


def shared_by(target, name):
    """The path of a file that all files of a target share."""
    return f"kernels/{target}/runtime/{name}"


def shared(name):
    """The path of a file that all targets share."""
    return f"runtime/{name}"


def module(package, path):
    """The name of the module at a path of a package."""
    return ".".join([package, *path.removesuffix(".py").split("/")])


def write_all(texts, folder):
    """Write files at their paths below a folder."""
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
