"""The expressions of kernels, as C writes them, made into calls on arrays."""

from __future__ import annotations

import re
from typing import Any, Callable

from . import _functions as f

_TOKEN = re.compile(
    r"\s*(?:(?P<number>0[xX][0-9a-fA-F]+[uUlL]*|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fFuUlL]*)|(?P<name>[A-Za-z_]\w*)"
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


def _round(x: Any) -> Any:
    """To the nearest integer, halves away from 0, as C has it."""
    return f.copysign(f.floor(f.abs(x) + 0.5), x)


def _number(choose: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The greater or the lesser of two numbers; the other one where one is none, as C has it."""

    def chosen(a: Any, b: Any) -> Any:
        none = [f.isnan(x) if hasattr(x, "dtype") else x != x for x in (a, b)]
        both = choose(a, b)
        both = f.where(none[1], a, both) if none[1] is not False else both
        return f.where(none[0], b, both) if none[0] is not False else both

    return chosen


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "fabs": f.abs,
    "pow": f.pow,
    "fmax": _number(f.maximum),
    "fmin": _number(f.minimum),
    "fdim": lambda a, b: f.maximum(a - b, 0.0),
    "fma": lambda a, b, c: a * b + c,
    "exp2": lambda x: f.exp(x * 0.6931471805599453),
    "cbrt": lambda x: f.copysign(f.pow(f.abs(x), 1 / 3), x),
    "erfc": lambda x: 1.0 - f.erf(x),
    "nearbyint": f.round,
    "remainder": lambda a, b: a - f.round(a / b) * b,
    "round": _round,
    "max": f.maximum,
    "min": f.minimum,
    "fmod": lambda a, b: a - f.trunc(a / b) * b,
    "atan2": f.atan2,
    "rsqrt": lambda x: f.reciprocal(f.sqrt(x)),
    "rint": f.round,
    **{
        name: getattr(f, name)
        for name in """abs exp expm1 log log1p log2 log10 sqrt sin cos tan asin acos atan sinh cosh
        tanh asinh acosh atanh floor ceil trunc erf isnan isinf isfinite hypot copysign
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
    # A number is made where the array beside it is.
    device = next((x.device for x in (a, b) if _is_array(x)), None)
    a, b = f.asarray(a, device=device), f.asarray(b, device=device)
    quotient = f.floor_divide(f.abs(a), f.abs(b))
    return f.where(f.not_equal(f.less(a, 0), f.less(b, 0)), -quotient, quotient)


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

    def run(
        self, values: dict[str, Any], dry: bool = False, types: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The values of all names after the statements. `types`: dtypes by the names of parameters'
        types, such as `T`."""
        reader = _Reader(self._tokens, {n: _promoted(v) for n, v in values.items()}, dry, types)
        while not reader.done():
            reader.statement()
        return reader.values


def _promoted(value: Any) -> Any:
    """As C has it, whole numbers narrower than an int are computed as ints."""
    dtype = getattr(value, "dtype", None)
    if dtype is not None and dtype.kind in "biu" and dtype.itemsize < 4:
        return f.astype(value, "int32")
    return value


def expression(
    text: str, values: dict[str, Any], dry: bool = False, types: dict[str, Any] | None = None
) -> Any:
    """The value of one expression."""
    reader = _Reader(_tokens(text), {n: _promoted(v) for n, v in values.items()}, dry, types)
    value = reader.ternary()
    if not reader.done():
        raise KernelSyntaxError(f"`{reader.peek()}` after the end of `{text}`")
    return value


class _Reader:
    def __init__(
        self,
        tokens: list[tuple[str, str]],
        values: dict[str, Any],
        dry: bool,
        types: dict[str, Any] | None = None,
    ) -> None:
        self.tokens, self.values, self.dry, self.at = tokens, values, dry, 0
        self.types = types or {}

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
        if self.peek() in ("for", "while", "if", "do", "return"):
            raise KernelSyntaxError(f"`{self.peek()}`: kernels have no loops and no branches but `?:`")
        while self.peek() == "const" or self.type_at(0):
            cast = self.type_of(self.next()[1], cast)
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

    def type_at(self, ahead: int) -> bool:
        """Whether a type is there: by its name, or a capital that stands for one, before a name or
        the end of a cast."""
        text, after = self.peek(ahead), self.peek(ahead + 1)
        named = text in _TYPES
        stands = len(text) == 1 and text.isupper() and (after == ")" or after[:1].isalpha())
        return named or stands and text not in self.values

    def type_of(self, text: str, before: Any) -> Any:
        """The dtype of a type, of which `before` are the words so far: `unsigned char`."""
        dtype = _TYPES.get(text) or self.types.get(text)
        if before == "uint32" and dtype in ("int8", "int16", "int32", "int64"):
            return "u" + dtype
        return dtype or before

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
            ahead = 0
            while self.type_at(ahead):
                ahead += 1
            if ahead and self.peek(ahead) == ")":
                cast = None
                for _ in range(ahead):
                    cast = self.type_of(self.next()[1], cast)
                self.take(")")
                return self.apply(lambda x: f.astype(f.asarray(x), cast), self.unary())
            value = self.ternary()
            self.take(")")
            return value
        if kind == "number":
            if text[:2] in ("0x", "0X"):
                return int(text.rstrip("uUlL"), 16)
            digits = text.rstrip("fFuUlL")
            whole = not any(c in digits for c in ".eE") and not text.endswith(("f", "F"))
            return int(digits) if whole else float(digits)
        if kind == "name" and self.peek() == "(":
            return self.call(text)
        if kind == "name":
            return self.value_of(text)
        raise KernelSyntaxError(f"`{text}` begins no value")

    def call(self, name: str) -> Any:
        # C's functions of floats have an f at their end.
        function = _FUNCTIONS.get(name) or _FUNCTIONS.get(name.removesuffix("f"))
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
