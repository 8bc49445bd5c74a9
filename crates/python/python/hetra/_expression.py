"""The expressions of kernels, as C writes them, made into calls on arrays."""

from __future__ import annotations

import re
from typing import Any, Callable

from . import _functions as f

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fFuUlL]*)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<op>\|\||&&|<<=|>>=|<<|>>|<=|>=|==|!=|\+=|-=|\*=|/=|[-+*/%<>!~&|^?:=(),;]))"
)

_TYPES = {
    "bool": "bool",
    "char": "int8",
    "short": "int16",
    "int": "int32",
    "long": "int64",
    "unsigned": "uint32",
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "float32": "float32",
    "float64": "float64",
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
}

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "fabs": f.abs,
    "pow": f.pow,
    "fmax": f.maximum,
    "fmin": f.minimum,
    "max": f.maximum,
    "min": f.minimum,
    "fmod": lambda a, b: a - f.trunc(a / b) * b,
    "atan2": f.atan2,
    "rsqrt": lambda x: f.reciprocal(f.sqrt(x)),
    "rint": f.round,
    **{
        name: getattr(f, name)
        for name in """abs exp expm1 log log1p log2 log10 sqrt sin cos tan asin acos atan sinh cosh
        tanh asinh acosh atanh floor ceil round trunc erf isnan isinf isfinite hypot copysign
        signbit""".split()
    },
}

# How tightly operators bind, weakest first.
_LEVELS = (
    ("||",),
    ("&&",),
    ("|",),
    ("^",),
    ("&",),
    ("==", "!="),
    ("<", "<=", ">", ">="),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
)


def _divide(a: Any, b: Any) -> Any:
    """C's quotient: whole numbers are cut towards 0."""
    kinds = [getattr(getattr(x, "dtype", None), "kind", "f" if isinstance(x, float) else "i") for x in (a, b)]
    if "f" in kinds:
        return f.divide(a, b) if _is_array(a) or _is_array(b) else a / b
    quotient = f.floor_divide(f.abs(f.asarray(a)), f.abs(f.asarray(b)))
    return f.where(f.not_equal(f.less(f.asarray(a), 0), f.less(f.asarray(b), 0)), -quotient, quotient)


def _is_array(x: Any) -> bool:
    return hasattr(x, "dtype")


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "||": f.logical_or,
    "&&": f.logical_and,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "&": lambda a, b: a & b,
    "==": f.equal,
    "!=": f.not_equal,
    "<": f.less,
    "<=": f.less_equal,
    ">": f.greater,
    ">=": f.greater_equal,
    "<<": lambda a, b: a << b,
    ">>": lambda a, b: a >> b,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _divide,
    "%": lambda a, b: a - _divide(a, b) * b,
}


class KernelSyntaxError(SyntaxError):
    """An expression of a kernel that is not understood."""


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, at = [], 0
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.S).rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            raise KernelSyntaxError(f"`{text[at:at + 20].strip()}` is no part of an expression")
        kind = found.lastgroup or ""
        tokens.append((kind, found.group(kind)))
        at = found.end()
    return tokens


class Program:
    """Statements, run on the values of names."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        # Read once without values, so that what is wrong is said before there are arrays.
        self._at = 0
        self.run({}, dry=True)

    def run(self, values: dict[str, Any], dry: bool = False) -> dict[str, Any]:
        """The values of all names after the statements."""
        reader = _Reader(self._tokens, dict(values), dry)
        while not reader.done():
            reader.statement()
        return reader.values


def expression(text: str, values: dict[str, Any], dry: bool = False) -> Any:
    """The value of one expression."""
    reader = _Reader(_tokens(text), values, dry)
    value = reader.ternary()
    if not reader.done():
        raise KernelSyntaxError(f"`{reader.peek()}` after the end of `{text}`")
    return value


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]], values: dict[str, Any], dry: bool) -> None:
        self.tokens, self.values, self.dry, self.at = tokens, values, dry, 0

    def done(self) -> bool:
        return self.at >= len(self.tokens)

    def peek(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at][1] if at < len(self.tokens) else ""

    def next(self) -> tuple[str, str]:
        if self.done():
            raise KernelSyntaxError("the expression ends too early")
        self.at += 1
        return self.tokens[self.at - 1]

    def take(self, wanted: str) -> None:
        kind, got = self.next()
        if got != wanted:
            raise KernelSyntaxError(f"wanted `{wanted}`, got `{got}`")

    def statement(self) -> None:
        if self.peek() == ";":
            self.at += 1
            return
        cast = None
        while self.peek() in _TYPES or self.peek() in ("const", "T"):
            cast = _TYPES.get(self.next()[1], cast)
        kind, name = self.next()
        if kind != "name":
            raise KernelSyntaxError(f"wanted a name to assign to, got `{name}`")
        _, op = self.next()
        if op not in ("=", "+=", "-=", "*=", "/="):
            raise KernelSyntaxError(f"wanted an assignment after `{name}`, got `{op}`")
        value = self.ternary()
        if op != "=":
            value = self.apply(_OPERATORS[op[0]], self.value_of(name), value)
        if cast is not None and not self.dry:
            value = f.astype(f.asarray(value), cast)
        self.values[name] = value
        if not self.done():
            self.take(";")

    def value_of(self, name: str) -> Any:
        if name in self.values:
            return self.values[name]
        if self.dry:
            return None
        raise KernelSyntaxError(f"there is no `{name}`")

    def apply(self, function: Callable[..., Any], *values: Any) -> Any:
        return None if self.dry else function(*values)

    def ternary(self) -> Any:
        condition = self.binary(0)
        if self.peek() != "?":
            return condition
        self.take("?")
        then = self.ternary()
        self.take(":")
        return self.apply(f.where, condition, then, self.ternary())

    def binary(self, level: int) -> Any:
        if level == len(_LEVELS):
            return self.unary()
        value = self.binary(level + 1)
        while self.peek() in _LEVELS[level]:
            _, op = self.next()
            value = self.apply(_OPERATORS[op], value, self.binary(level + 1))
        return value

    def unary(self) -> Any:
        op = self.peek()
        if op == "-":
            self.at += 1
            return self.apply(lambda x: -x, self.unary())
        if op == "+":
            self.at += 1
            return self.unary()
        if op == "!":
            self.at += 1
            return self.apply(f.logical_not, self.unary())
        if op == "~":
            self.at += 1
            return self.apply(lambda x: ~x, self.unary())
        return self.primary()

    def primary(self) -> Any:
        kind, text = self.next()
        if text == "(":
            if self.peek() in _TYPES and self.peek(1) == ")":
                cast = _TYPES[self.next()[1]]
                self.take(")")
                return self.apply(lambda x: f.astype(f.asarray(x), cast), self.unary())
            value = self.ternary()
            self.take(")")
            return value
        if kind == "number":
            digits = text.rstrip("fFuUlL")
            whole = not any(c in digits for c in ".eE") and not text.endswith(("f", "F"))
            return int(digits) if whole else float(digits)
        if kind == "name" and self.peek() == "(":
            return self.call(text)
        if kind == "name":
            return self.value_of(text)
        raise KernelSyntaxError(f"`{text}` begins no value")

    def call(self, name: str) -> Any:
        function = _FUNCTIONS.get(name)
        cast = _TYPES.get(name)
        if function is None and cast is None:
            raise KernelSyntaxError(f"there is no function `{name}`; there are {', '.join(sorted(_FUNCTIONS))}")
        self.take("(")
        arguments = []
        while self.peek() != ")":
            arguments.append(self.ternary())
            if self.peek() != ")":
                self.take(",")
        self.take(")")
        if cast is not None:
            return self.apply(lambda x: f.astype(f.asarray(x), cast), *arguments)
        return self.apply(function, *arguments)
