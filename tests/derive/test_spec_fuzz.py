"""Reading any text gives a layer or a SpecError, quickly: random texts, random trees, damaged valid files."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from derive.excerpt import SpecError
from derive.formula import parse_angle
from derive.spec import load_spec, loads_spec
from derive.toml_places import places
from tests.derive.pace import within

SEEDS = [
    """name = "scaled_affine"
title = "Scaled"
sizes = ["n", "m"]
[input]
x = ["n"]
[parameters]
W = ["m", "n"]
b = ["m"]
[output]
z = ["m"]
definitions = ["r = sum[j](x[j]**2)", "u[i] = sum[j](W[i, j]*x[j])"]
formula = "z[i] = u[i]/sqrt(n*r + 1e-3) + b[i]"
""",
    """name = "mixed"
sizes = ["V", "C", "O", "L", "P", "d"]
offsets = ["pad"]
input = { t = { axes = ["P"], values = "V" }, x = ["C", 'L'] }
parameters.W = ["O", "C", 3]
parameters.E = ["V", "O"] # tokens
[output]
z = ["O", "P"]
formula = '''z[o, p] = max(E[t[p], o], 0) + exp(-abs(sum[c, k](W[o, c, k]*x[c, 2*p + d*k - pad]))**(1/2))
 + sum[q:L](tanh(x[0, q])*delta(q, 2*p + 1))/L'''
""",
]
WORDS = """z x W b t E r i j k s B n m eta lambda import class if for in __class__ sum max sqrt exp delta pi atan
    ( ) [ ] { } , . : = + - * / ** // @ % ; # ' \" \\ 0 1 2 16 0.5 1e9 9999999999 0x1f 1j -1 (1/2) [i] [i,j] [j] [s]
    sum[j]( x[j] W[i,j] [input] [output] [parameters] formula sizes name true é"""
TOKENS = [*WORDS.split(), "\n", "\t", "\x00", "\ud7ff"]
SLOW_READ = 2.0  # seconds

texts = st.one_of(
    st.text(max_size=200), st.lists(st.sampled_from(TOKENS), max_size=60).map(" ".join), st.binary().map(repr)
)
leaves = st.sampled_from(["b[i]", "x[j]", "W[i, j]", "n", "2", "0.5", "r", "t", "i", "0", "x[2*j + i]", "x[n - 1]"])
operators = st.sampled_from(["+", "-", "*", "/", "**", "//"])
calls = st.sampled_from(["sqrt", "exp", "log", "tanh", "sin", "cos", "abs", "sum[j]", "sum[i]", "foo"])
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, operators, inner).map(lambda parts: "({} {} {})".format(*parts)),
        st.tuples(calls, inner).map(lambda parts: "{}({})".format(*parts)),
        st.tuples(inner, inner).map(lambda parts: "max({}, {})".format(*parts)),
        inner.map(lambda part: f"-{part}"),
        inner.map(lambda part: f"{part}**-2"),
    ),
    max_leaves=25,
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """Return a valid file with pieces removed, doubled, moved or replaced."""
    text = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        piece = draw(st.one_of(st.just(""), st.just(text[start:end] * 2), st.sampled_from(TOKENS), st.text(max_size=5)))
        text = text[:start] + piece + text[end:]
    return text


def with_formula(formula: str) -> str:
    """Return a valid file with more text after its formula."""
    return SEEDS[0].replace(' + b[i]"', " + b[i] + " + json.dumps(formula)[1:])


def reads_or_refuses(read: Callable[[str], object], text: str) -> None:
    """Read the text; allow only SpecError, with a place, within bounded time and length."""
    try:
        with within(SLOW_READ):
            read(text)
    except SpecError as error:
        message = str(error)
        assert len(message) < 1500
        assert "; " in message
        assert error.line is not None
        assert error.column is not None
        assert 1 <= error.line <= text.count("\n") + 1
        assert error.column >= 1


def run(examples: int, source: st.SearchStrategy[str], read: Callable[[str], object], number: int = 0) -> None:
    """Try ``examples`` texts."""

    @seed(number)
    @settings(max_examples=examples, database=None, derandomize=False, suppress_health_check=list(HealthCheck))
    @given(source)
    def attempt(text: str) -> None:
        reads_or_refuses(read, text)

    attempt()


KINDS: dict[str, tuple[st.SearchStrategy[str], Callable[[str], object]]] = {
    "any text as a file": (texts, loads_spec),
    "a damaged file": (damaged(), loads_spec),
    "a file with any formula": (st.one_of(trees, texts).map(with_formula), loads_spec),
    "any text as an angle": (st.one_of(texts, trees), parse_angle),
}


def test_the_good_files_are_good() -> None:
    assert [loads_spec(text).name for text in SEEDS] == ["scaled_affine", "mixed"]
    assert loads_spec(with_formula("b[i]")).output == loads_spec(SEEDS[0].replace("+ b[i]", "+ b[i] + b[i]")).output


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_a_refusal_comes_out(kind: str) -> None:
    source, read = KINDS[kind]
    run(120, source, read)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_a_refusal_comes_out_for_some_seconds(kind: str) -> None:
    source, read = KINDS[kind]
    end, number = time.monotonic() + 4, 1
    while time.monotonic() < end:
        run(200, source, read, number)
        number += 1


@given(st.binary(max_size=300))
def test_bytes_that_are_no_layer_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "mine.toml"
    path.write_bytes(data)
    with pytest.raises(SpecError):
        load_spec(path)


KEYS = st.one_of(st.from_regex(r"[A-Za-z0-9_-]{1,4}", fullmatch=True), st.text("a .\"'=]#", max_size=4).map(json.dumps))
PLAIN = st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f")
STRINGS = st.one_of(
    st.text(PLAIN, max_size=8).map(lambda text: json.dumps(text, ensure_ascii=len(text) % 2 == 0)),
    st.text(PLAIN, max_size=8).map(lambda text: "'" + text.replace("'", "") + "'"),
    st.text(PLAIN, max_size=8).map(lambda text: "'''\n" + text.replace("'", "") + "\n'''"),
    st.text(PLAIN, max_size=8).map(lambda text: '"""' + json.dumps(text)[1:-1] + '\\\n   \n."""'),
    st.text(PLAIN, max_size=8).map(lambda text: '"""' + json.dumps(text)[1:-1] + '""""'),
)
VALUES = st.recursive(
    st.one_of(STRINGS, st.sampled_from(["1", "-0.5", "true", "1979-05-27 07:32:00", "0x1F", "inf"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + " , ".join(items) + "\n#]\n]"),
        st.lists(st.tuples(KEYS, inner), max_size=2).map(
            lambda items: "{" + ", ".join(f"{key} = {value}" for key, value in items) + "}"
        ),
    ),
    max_leaves=5,
)
LINES = st.lists(
    st.one_of(
        st.tuples(KEYS, VALUES).map(" = ".join),
        st.tuples(KEYS, KEYS, VALUES).map(lambda t: f'{t[0]} . {t[1]}={t[2]} # comment = ["'),
        KEYS.map(lambda key: f"[ {key} ]"),
        KEYS.map(lambda key: f"[[{key}]]"),
    ),
    max_size=5,
).map("\n".join)


def strings(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield every string of a parsed document with its path."""
    if isinstance(value, str):
        yield path, value
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from strings(entry, (*path, key))
    if isinstance(value, list):
        for number, entry in enumerate(value):
            yield from strings(entry, (*path, number))


@settings(suppress_health_check=list(HealthCheck), max_examples=150)
@given(LINES)
def test_every_string_of_a_document_is_found_where_it_stands(source: str) -> None:
    try:
        document = tomllib.loads(source)
    except tomllib.TOMLDecodeError:
        return
    found = places(source)
    for path, text in strings(document):
        if len(path) > 6:
            continue
        offsets = found[path].value
        assert len(offsets) == max(len(text), 1)
        for character, offset in zip(text, offsets, strict=False):
            assert source[offset] in (character, "\\")
