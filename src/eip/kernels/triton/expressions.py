"""Formulas as expressions: written once, differentiated here, and printed as source of kernels.

The C++ kernels have templates over numbers and dual numbers; Triton has neither, so the gradient of
a formula (backwards) and the tangent of any (forwards) are made here, of sums, products and roots.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

#: What an expression is made of: a symbol's name, a constant, or an operation and its arguments.
Key = tuple[object, ...]


class Number:
    """An expression; one that is equal to another is the same object."""

    _made: dict[Key, Number] = {}  # noqa: RUF012 (all there are)
    kind: str
    arguments: tuple[Number, ...]
    content: str | float

    def __new__(cls, kind: str, *arguments: Number, content: str | float = "") -> Number:
        key = kind, content, *map(id, arguments)
        if key not in cls._made:
            made = super().__new__(cls)
            made.kind, made.arguments, made.content = kind, arguments, content
            cls._made[key] = made
        return cls._made[key]

    def __add__(self, other: Number | float) -> Number:
        other = as_number(other)
        if self is ZERO or other is ZERO:
            return other if self is ZERO else self
        return Number("+", *_ordered(self, other))

    def __mul__(self, other: Number | float) -> Number:
        one, two = _ordered(self, as_number(other))
        if two is ZERO or one is ONE:
            return two
        if one is ZERO or two is ONE:
            return one
        if one.kind == two.kind == "constant":
            return constant(float(one.content) * float(two.content))
        if one.kind == "constant" and two.kind == "*" and two.arguments[0].kind == "constant":
            return one * two.arguments[0] * two.arguments[1]
        return Number("*", one, two)

    def __sub__(self, other: Number | float) -> Number:
        return self + -1.0 * as_number(other)

    def __neg__(self) -> Number:
        return -1.0 * self

    __radd__, __rmul__ = __add__, __mul__


def constant(value: float) -> Number:
    return Number("constant", content=float(value))


def symbol(name: str) -> Number:
    """What a kernel has under a name."""
    return Number("symbol", content=name)


def symbols(name: str, count: int) -> list[Number]:
    """``name0``, ``name1`` …"""
    return [symbol(f"{name}{k}") for k in range(count)]


def inverse_root(of: Number) -> Number:
    """1/√."""
    return Number("1/√", of)


def as_number(one: Number | float) -> Number:
    return one if isinstance(one, Number) else constant(one)


ZERO, ONE = constant(0.0), constant(1.0)


def _ordered(one: Number, other: Number) -> tuple[Number, Number]:
    """Constants first: a + b is b + a."""
    return (other, one) if other.kind == "constant" and one.kind != "constant" else (one, other)


def total(numbers: Iterable[Number]) -> Number:
    return sum(numbers, start=ZERO)


def in_order(wanted: Iterable[Number]) -> list[Number]:
    """These and all that they are made of, arguments before what they are arguments of."""
    found: dict[Number, None] = {}
    waiting = [(one, False) for one in reversed(list(wanted))]
    while waiting:
        one, ready = waiting.pop()
        if one in found:
            continue
        if ready:
            found[one] = None
        else:
            waiting.append((one, True))
            waiting += [(argument, False) for argument in reversed(one.arguments)]
    return list(found)


def gradient(of: Number, by: Sequence[Number]) -> list[Number]:
    """Derivatives by each of some symbols; backwards, so for about the price of the value."""
    slopes: dict[Number, Number] = {of: ONE}
    for one in reversed(in_order([of])):
        slope = slopes.get(one, ZERO)
        for argument, part in zip(one.arguments, _partial(one), strict=True):
            slopes[argument] = slopes.get(argument, ZERO) + slope * part
    return [slopes.get(one, ZERO) for one in by]


def tangents(of: Sequence[Number], along: Mapping[Number, Number]) -> list[Number]:
    """How fast each changes where some symbols change at the given rates."""
    rates: dict[Number, Number] = dict(along)
    for one in in_order(of):
        if one not in rates:
            pairs = zip(one.arguments, _partial(one), strict=True)
            rates[one] = total(part * rates[argument] for argument, part in pairs)
    return [rates[one] for one in of]


def _partial(one: Number) -> tuple[Number, ...]:
    """Derivatives of an operation by its arguments."""
    match one.kind:
        case "+":
            return ONE, ONE
        case "*":
            first, second = one.arguments
            return second, first
        case "1/√":
            return (-0.5 * (one * one * one),)
    return ()


def source(wanted: Mapping[str, Number], indent: int) -> str:
    """Lines of Python that give each wanted number its name, nothing worked out twice."""
    lines: list[str] = []
    names: dict[Number, str] = {}
    for one in in_order(wanted.values()):
        arguments = [names[argument] for argument in one.arguments]
        match one.kind:
            case "symbol" | "constant":
                names[one] = str(one.content)
                continue
            case "1/√":
                text = f"1.0 / tl.sqrt({arguments[0]})"
            case kind:
                text = f" {kind} ".join(arguments)
        names[one] = f"_{len(lines)}"
        lines.append(f"{names[one]} = {text}")
    lines += [f"{name} = {names[one]}" for name, one in wanted.items()]
    return "\n".join(" " * indent + line for line in lines)
