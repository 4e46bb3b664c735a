"""Operators of PyTorch, ``torch.ops.eip``: arrays in, arrays out, wherever the arrays are.

PyTorch's dispatcher chooses: on a CPU the compiled kernel, on another device the one that was given
for it (`implement`), and where there is none, or it is not wanted, the same in plain PyTorch.
Tracing (``torch.compile``, ``torch.export``) sees shapes alone. Nobody outside this package asks
where an array is.

The low-level interface of `torch.library` is used, and kernels are called by `ctypes` inside: an
operator made by ``torch.library.custom_op`` takes some 30 µs more a call, of which a step of
dynamics makes eight; and `torch.utils.cpp_extension` compiles PyTorch's headers, a minute instead
of ten seconds on the user's machine, to a library that is bound to one version of PyTorch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from eip.kernels.build import Library, kernels_for
from eip.kernels.choice import whose_kernels

_LIBRARY = torch.library.Library("eip", "DEF")

Function = Callable[..., Any]

#: Of each operator the same in PyTorch.
_PLAIN: dict[Any, Function] = {}


class OtherKernel(NamedTuple):
    """Of a device that is no CPU: a function of the operator's arguments, and whether it can work
    on such arguments."""

    run: Function
    takes: Function


class NotToBeHad(Exception):
    """A kernel cannot be compiled here, as a warning has said: plain PyTorch goes on."""


#: Kernels by operator and device, but for those of the CPU.
_OTHER_DEVICES: dict[tuple[str, str], OtherKernel] = {}

#: Operators that have one of the CPU.
_ON_CPU: set[str] = set()

#: By operator: what looks for a kernel and runs it; and from functions of `twice_differentiable`
#: the kernels of an operator, its gradient and that one's.
_CHOOSING: dict[str, Function] = {}
_THREE: dict[str, Function] = {}


def operator(
    schema: str,
    *,
    kernel: Function | None,
    plain: Function,
    fake: Function,
    takes: Function | None = None,
    constant: bool = False,
    setup_context: Function | None = None,
    backward: Function | None = None,
) -> Any:
    """Registers ``eip::{schema}`` and gives it back, ready to be called.

    Args:
        schema: name, arguments and results, as `torch.library` writes them; the first argument is
            an array, which says device and type.
        kernel: what runs on a CPU: the compiled library, then the arguments; None: plain PyTorch.
        plain: the same in PyTorch, which can differentiate it any number of times.
        fake: results without content, from the arguments' shapes.
        takes: whether the kernel can work on such arguments, the library first.
        constant: the result has no gradient.
        setup_context, backward: as in `torch.library.register_autograd`, the formula by which
            PyTorch differentiates the kernel; without, a gradient is that of ``plain``.
    """
    name = schema.split("(")[0]
    _LIBRARY.define(schema)
    chosen: Any = getattr(torch.ops.eip, name).default

    def kernel_for(arguments: tuple[Any, ...]) -> Function | None:
        device = whose_kernels(arguments[0].device)
        if device != "cpu":
            other = None if device is None else _OTHER_DEVICES.get((name, device))
            return other.run if other is not None and other.takes(*arguments) else None
        if kernel is None:
            return None
        lib = kernels_for(arguments[0])
        if lib is None or not (takes is None or takes(lib, *arguments)):
            return None
        return functools.partial(kernel, lib)

    def choose(*arguments: Any) -> Any:
        return run(kernel_for(arguments) or plain, arguments)

    def run(found: Function, arguments: tuple[Any, ...]) -> Any:
        try:
            return found(*arguments)
        except NotToBeHad:
            return plain(*arguments)

    def below_autograd(*arguments: Any) -> Any:
        found = kernel_for(arguments)
        with torch._C._AutoDispatchBelowAutograd():
            if found is not None and not _watched(arguments[0]):
                return run(found, arguments)
            return chosen(*arguments)

    class Recorded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            output = below_autograd(*arguments)
            assert setup_context is not None
            setup_context(ctx, arguments, output)
            return output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            assert backward is not None
            return backward(ctx, *gradients)

    Recorded.__name__ = Recorded.__qualname__ = name

    def recorded(*arguments: Any) -> Any:
        if constant:
            return below_autograd(*arguments)
        if kernel_for(arguments) is None:
            return plain(*arguments)
        if not torch.is_grad_enabled():
            return below_autograd(*arguments)
        return plain(*arguments) if backward is None else Recorded.apply(*arguments)

    _PLAIN[chosen] = plain
    _CHOOSING[name] = choose
    if kernel is not None:
        _ON_CPU.add(name)
    _LIBRARY.impl(name, choose, "CPU")
    _LIBRARY.impl(name, plain, "CompositeExplicitAutograd")
    _LIBRARY.impl(name, recorded, "Autograd")
    torch.library.register_fake(f"eip::{name}", fake, lib=_LIBRARY)
    return chosen


class Decomposed(TorchFunctionMode):
    """Inside, operators are what they are in plain PyTorch: a trace holds nothing of eIP's own."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        plain = _PLAIN.get(func)
        if plain is None:
            return func(*args, **(kwargs or {}))
        with self:  # which PyTorch leaves while it is here
            return plain(*args, **(kwargs or {}))


def implement(name: str, device: str, kernel: Function, takes: Function = lambda *_: True) -> None:
    """Gives an operator a kernel for another device; the formula of its gradient stays.

    Args:
        device: as PyTorch names its type, ``"cuda"`` say.
        kernel: takes the operator's arguments; raises `NotToBeHad` where it cannot be compiled.
        takes: whether it can work on such arguments.
    """
    _LIBRARY.impl(name, _CHOOSING[name], device.upper())
    _OTHER_DEVICES[name, device] = OtherKernel(kernel, takes)


def implement_twice(
    name: str, device: str, values: Function, gradient: Function, takes: Function
) -> None:
    """Gives an operator that is `twice_differentiable`, its gradient and that one's own kernels for
    another device.

    Args:
        values, gradient, takes: as there, with None in the library's place.
    """
    for one, found in _THREE[name](values, gradient, takes).items():
        kernel, takes_them = (functools.partial(function, None) for function in found)
        implement(one, device, kernel, takes_them)


def implemented(name: str, array: Tensor) -> bool:
    """Whether an operator has a kernel of another device for arrays like this one.

    A network that lays out its arrays as the kernel wants them asks beforehand.
    """
    device = whose_kernels(array.device)
    return device is not None and (name, device) in _OTHER_DEVICES


def implementations() -> dict[str, tuple[str, ...]]:
    """The devices for which each operator has a kernel, by its name; elsewhere it is plain
    PyTorch."""
    found = {name: ["cpu"] if name in _ON_CPU else [] for name in sorted(_CHOOSING)}
    for name, device in _OTHER_DEVICES:
        found[name].append(device)
    return {name: tuple(devices) for name, devices in found.items()}


def _watched(array: Tensor) -> bool:
    """Whether anybody looks on, a trace say. If not, the dispatcher would but choose the kernel:
    to be asked a second time takes it some µs."""
    return (
        type(array) not in (Tensor, torch.nn.Parameter) or torch._C._len_torch_dispatch_stack() > 0
    )


def constants(function: Function) -> Any:
    """A function of numbers that gives arrays, worked out once for each; in a trace, constants."""

    @functools.lru_cache(maxsize=8)
    def kept(*arguments: Any) -> Any:
        with _disable_current_modes():  # no array without content is kept
            return function(*arguments)

    @functools.wraps(function)
    def lifted(*arguments: Any) -> Any:
        found, lift = kept(*arguments), torch.ops.aten.lift_fresh.default
        return lift(found) if isinstance(found, Tensor) else tuple(map(lift, found))

    lifted.cache_clear = kept.cache_clear  # type: ignore[attr-defined]
    return lifted


def wanted(ctx: Any, index: int) -> bool:
    """Whether the gradient being taken goes on to an array; ``needs_input_grad`` says only if
    one could. Forces want no gradient of weights, and training none of positions.

    Args:
        index: of the array among the arguments that are arrays.
    """
    node = ctx.next_functions[index][0]
    if node is None:
        return False
    try:
        if not torch._C._will_engine_execute_node(node):
            return False
    except (AttributeError, RuntimeError):  # another torch, or a leaf that grad() was asked for
        pass
    return _reaches_a_leaf(node)


def _reaches_a_leaf(node: Any) -> bool:
    """Whether anything behind a node still requires a gradient: a potential releases the positions
    that it differentiated by for its own forces."""
    variable = getattr(node, "variable", None)
    if variable is not None:
        return bool(variable.requires_grad)
    behind = [function for function, _ in node.next_functions if function is not None]
    # What is no leaf and has nothing behind it was asked for itself.
    return not behind or any(_reaches_a_leaf(function) for function in behind)


def twice_differentiable(
    name: str,
    *,
    inputs: str,
    constants: str,
    outputs: int,
    weights: str,
    geometry: str | None = None,
    added: str | None = None,
    values: Function,
    gradient: Function,
    plain: Function,
    fake: Function,
    takes: Function,
) -> Any:
    """An operator for training, whose loss holds forces: with its gradient, and that one's own.

    With L = Σ g · f(x) and ˙ for the direction in which the gradient is differentiated, the second
    derivatives are those of S = d/dε L(x + ε ẋ): in g the tangent of f, in x the tangent of its
    gradient. So two kernels do for all, without directions and with them. The gradients are
    operators of their own, ``eip::{name}_backward`` and ``eip::{name}_double_backward``.

    The derivative of a gradient in the weights, and third derivatives, are refused; in the edges'
    vectors the second derivative (of vibrations) is that of ``plain``.

    Args:
        inputs: what can be differentiated by, as in a schema, ``"Tensor x, Tensor? v"``.
        constants: the other arguments, likewise.
        outputs: how many arrays f gives.
        weights: the input that is one, "the radial filter's" in the words of ``weights: words``.
        geometry: the input that holds the edges' vectors, if any.
        added: the input that f is no other function of than a sum with it, if any.
        values: ``(lib, inputs, constants, dots or None) → outputs``, or their tangents.
        gradient: ``(lib, g, inputs, constants, in_weights, in_geometry, dots or None)`` → a
            gradient for each input, None where it is not asked for; with dots, those of S.
        plain: ``(*inputs, *constants) → outputs`` in PyTorch.
        fake: the same with empty results.
        takes: ``(lib, inputs) →`` whether the kernels can work on them.
    """
    names = [one.split()[-1] for one in inputs.split(", ")]
    count = len(names)
    of_weights, words = weights.split(": ")
    at_weights = names.index(of_weights)
    at_geometry = names.index(geometry) if geometry else None
    # In these there is no second derivative, or one that is worked out apart.
    without = {outputs + names.index(one) for one in (geometry, added) if one}
    grads = ", ".join(f"Tensor g_{k}" for k in range(outputs))
    dots = ", ".join(f"Tensor? {one}_dot" for one in names)
    head = f"{inputs}, {constants}"

    def results(number: int) -> str:
        return f"({', '.join(['Tensor'] * number)})"

    def split(arguments: Sequence[Any], *sizes: int) -> list[tuple[Any, ...]]:
        parts, at = [], 0
        for size in sizes:
            parts.append(tuple(arguments[at : at + size]))
            at += size
        return [*parts, tuple(arguments[at:])]

    def save(ctx: Any, tensors: Sequence[Tensor | None], others: tuple[Any, ...]) -> None:
        arrays = [one for one in others if isinstance(one, Tensor)]
        ctx.save_for_backward(*tensors, *arrays)
        ctx.others = [None if isinstance(one, Tensor) else one for one in others]
        # As `wanted` counts: what is no array is left out.
        ctx.places = [sum(t is not None for t in tensors[:k]) for k in range(len(tensors))]

    def load(ctx: Any, number: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        tensors, arrays = ctx.saved_tensors[:number], iter(ctx.saved_tensors[number:])
        return tensors, tuple(next(arrays) if one is None else one for one in ctx.others)

    def asked(ctx: Any, index: int | None) -> bool:
        return index is not None and wanted(ctx, ctx.places[index])

    # Kernels of the three from two functions, and whether they can work on such arguments ------

    def three(values: Function, gradient: Function, takes: Function) -> dict[str, Any]:
        def double(lib: Library | None, *arguments: Any) -> tuple[Any, ...]:
            sizes = outputs, count, len(arguments) - outputs - 2 * count
            g, x, others, along = split(arguments, *sizes)
            g, x, along = contiguous(g), contiguous(x), contiguous(along)
            to_g = values(lib, x, others, along)
            return *to_g, *gradient(lib, g, x, others, True, False, along)

        def first(lib: Library | None, *arguments: Any) -> tuple[Any, ...]:
            sizes = outputs, count, len(arguments) - outputs - count - 2
            g, x, others, flags = split(arguments, *sizes)
            return tuple(gradient(lib, contiguous(g), contiguous(x), others, *flags, None))

        def itself(lib: Library | None, *arguments: Any) -> tuple[Any, ...]:
            return tuple(values(lib, contiguous(arguments[:count]), arguments[count:], None))

        def takes_behind_g(lib: Library | None, *arguments: Any) -> bool:
            return bool(takes(lib, arguments[outputs : outputs + count]))

        def takes_it(lib: Library | None, *arguments: Any) -> bool:
            return bool(takes(lib, arguments[:count]))

        return {
            name: (itself, takes_it),
            f"{name}_backward": (first, takes_behind_g),
            f"{name}_double_backward": (double, takes_behind_g),
        }

    _THREE[name] = three
    own = three(values, gradient, takes)

    # Second derivatives -----------------------------------------------------------------------

    def plain_double(*arguments: Any) -> tuple[Any, ...]:
        g, x, others, along = split(arguments, outputs, count, len(arguments) - outputs - 2 * count)
        found = _directional(plain, g, x, others, along)
        return tuple(None if k in without else one for k, one in enumerate(found))

    double_backward = operator(
        f"{name}_double_backward({grads}, {head}, {dots}) -> {results(outputs + count)}",
        kernel=own[f"{name}_double_backward"][0],
        plain=plain_double,
        takes=own[f"{name}_double_backward"][1],
        fake=lambda *arguments: tuple(
            None if one is None or k in without else torch.empty_like(one)
            for k, one in enumerate(arguments[: outputs + count])
        ),
    )

    # The gradient -----------------------------------------------------------------------------

    def plain_backward(*arguments: Any) -> tuple[Any, ...]:
        g, x, others, flags = split(arguments, outputs, count, len(arguments) - outputs - count - 2)
        found = list(gradient_of(plain, g, x, others))
        for index, flag in zip((at_weights, at_geometry), flags, strict=True):
            if index is not None and not flag:
                found[index] = None
        return tuple(found)

    def fake_backward(*arguments: Any) -> tuple[Any, ...]:
        _, x, _, flags = split(arguments, outputs, count, len(arguments) - outputs - count - 2)
        left_out = {k for k, f in zip((at_weights, at_geometry), flags, strict=True) if not f}
        return tuple(
            None if one is None or k in left_out else torch.empty_like(one)
            for k, one in enumerate(x)
        )

    def setup_backward(ctx: Any, arguments: tuple[Any, ...], output: Any) -> None:
        g, x, others, _ = split(arguments, outputs, count, len(arguments) - outputs - count - 2)
        save(ctx, [*contiguous(g), *x], others)
        ctx.set_materialize_grads(False)

    def backward_of_backward(ctx: Any, *given: Tensor | None) -> tuple[Any, ...]:
        if given[at_weights] is not None:
            raise NotImplementedError(
                f"the gradient of a gradient in {words} weights is not there; run it under "
                "eip.kernels.reference_path()"
            )
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "third derivatives are not there; run them under eip.kernels.reference_path()"
            )
        tensors, others = load(ctx, outputs + count)
        g, x, _ = split(tensors, outputs, count)
        along = tuple(
            None
            if value is None or k == at_weights
            else (torch.zeros_like(value) if one is None else one.contiguous())
            for k, (value, one) in enumerate(zip(x, given, strict=True))
        )
        found = list(double_backward(*g, *x, *others, *along))
        if at_geometry is not None:
            # Slow, and for vibrations alone: training asks for no gradient of positions.
            found[outputs + at_geometry] = (
                _directional(plain, g, x, others, along, only=at_geometry)
                if asked(ctx, outputs + at_geometry)
                else None
            )
        return *found, *[None] * (len(others) + 2)

    first_backward = operator(
        f"{name}_backward({grads}, {head}, bool in_weights, bool in_geometry) -> {results(count)}",
        kernel=own[f"{name}_backward"][0],
        plain=plain_backward,
        takes=own[f"{name}_backward"][1],
        fake=fake_backward,
        setup_context=setup_backward,
        backward=backward_of_backward,
    )

    # Values -----------------------------------------------------------------------------------

    def setup(ctx: Any, arguments: tuple[Any, ...], output: Any) -> None:
        save(ctx, arguments[:count], arguments[count:])

    def backward(ctx: Any, *g: Tensor) -> tuple[Any, ...]:
        x, others = load(ctx, count)
        found = first_backward(*(*g, *x, *others), asked(ctx, at_weights), asked(ctx, at_geometry))
        return *found, *[None] * len(others)

    return operator(
        f"{name}({head}) -> {results(outputs)}",
        kernel=own[name][0],
        plain=plain,
        fake=fake,
        takes=own[name][1],
        setup_context=setup,
        backward=backward,
    )


def contiguous(arrays: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """As kernels read arrays."""
    return tuple(None if one is None else one.contiguous() for one in arrays)


def gradient_of(
    plain: Function, g: Sequence[Any], x: Sequence[Any], others: Sequence[Any] = ()
) -> tuple[Any, ...]:
    """By PyTorch, and differentiable itself where a gradient is recorded."""
    record = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = [_leaf(one, record) for one in x]
        given = [one for one in leaves if one is not None]
        found = iter(
            torch.autograd.grad(
                *(plain(*leaves, *others), given, g),
                create_graph=record,
                allow_unused=True,
                materialize_grads=True,
            )
        )
    return tuple(None if one is None else next(found) for one in leaves)


def _directional(
    plain: Function,
    g: Sequence[Any],
    x: Sequence[Any],
    others: Sequence[Any],
    dots: Sequence[Any],
    only: int | None = None,
) -> Any:
    """Derivatives of S in g and in x, see `twice_differentiable`; or in ``only`` one of x."""
    with torch.enable_grad():
        g, leaves = [_leaf(one, False) for one in g], [_leaf(one, False) for one in x]
        gradients = gradient_of(plain, g, leaves, others)
        pairs = zip(gradients, dots, strict=True)
        along = sum((a * b).sum() for a, b in pairs if a is not None and b is not None)
        if only is not None:
            one: Any = leaves[only]
            return torch.autograd.grad(along, one, allow_unused=True)[0]
        given = [*g, *(one for one in leaves if one is not None)]
        found = iter(torch.autograd.grad(along, given, allow_unused=True, materialize_grads=True))
    return tuple(None if one is None else next(found) for one in (*g, *leaves))


def _leaf(one: Tensor | None, record: bool) -> Tensor | None:
    if one is None or (record and one.requires_grad):
        return one
    return one.detach().requires_grad_()
