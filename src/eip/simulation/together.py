"""Runs of dynamics that go on side by side and share each call of the potential.

    together = Together()
    together.run([lambda: run_dynamics(..., together=together), ...])

A GPU, and for small structures a processor as well, takes many of them in hardly more time than
one. Each run stays what it is alone, with its own folder, checkpoint and end: it is a thread that
stops where it asks the potential. Once all ask, this module answers all of them by one call.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from eip.graph import AtomGraph, batch_graphs
from eip.potential import Differentiable, LikeAnother, Potential, prepared
from eip.prediction import Prediction, separate
from eip.signals import deferred_interrupts
from eip.simulation.bias import UDDPotential

T = TypeVar("T")

#: Atoms; more rows than any processor's product of matrices takes at a time.
_PADDING = 16


@dataclass
class _Kind:
    """Potentials that say the same: calls of theirs can be one."""

    given: Potential
    prepared: Potential

    def holds(self, other: Potential) -> bool:
        given = self.given
        if isinstance(given, UDDPotential) and isinstance(other, UDDPotential):
            alike = given.parameters_udd == other.parameters_udd
            return alike and given.potential is other.potential
        return given is other


@dataclass
class _Question:
    """What a run waits for."""

    kind: _Kind
    graph: AtomGraph
    stress: bool
    answer: Prediction | BaseException | None = None
    answered: threading.Event = field(default_factory=threading.Event)

    def tell(self, answer: Prediction | BaseException) -> None:
        self.answer = answer
        self.answered.set()


class Together:
    """Answers the calls of several runs by one call of the potential for all of them.

    A structure is told the same whichever others are in the call: bit for bit on the processors
    that this was tried on, but for a bias, which is the same to rounding; so is all of it on a GPU.
    """

    def __init__(self) -> None:
        #: Told when all runs that go on wait, for which the thread that answers waits.
        self._all_wait = threading.Condition()
        self._kinds: list[_Kind] = []
        self._waiting: list[_Question] = []
        self._running = 0
        self._over: BaseException | None = None
        self._interrupted: Callable[[], str | None] = lambda: None

    def run(self, runs: Sequence[Callable[[], T]]) -> list[T]:
        """What the runs give back, once all have ended.

        Ctrl-C and SIGTERM are told to all of them (see `interrupted`); a second one ends all.

        Raises:
            Exception: the first that a run raised; the others have ended as they do.
        """
        self._running, self._over = len(runs), None
        questions: list[_Question] = []
        with (
            deferred_interrupts() as self._interrupted,
            ThreadPoolExecutor(max(1, len(runs)), "eip-run") as threads,
        ):
            ended = [threads.submit(self._until_its_end, run) for run in runs]
            try:
                while questions := self._all_that_wait():
                    self._answer(questions)
            except BaseException as error:
                with self._all_wait:
                    self._over = error
                    for question in [*questions, *self._waiting]:
                        if not question.answered.is_set():
                            question.tell(_ended(error))
                raise
        return [one.result() for one in ended]

    def share(self, potential: Potential) -> Potential:
        """What a run asks in place of a potential.

        Runs share their calls where they share the potential, or the one that a bias of the same
        parameters is on. For figures alone, not for gradients.
        """
        with self._all_wait:
            kind = next((kind for kind in self._kinds if kind.holds(potential)), None)
            if kind is None:
                kind = _Kind(potential, prepared(potential))
                self._kinds.append(kind)
        return _SharedPotential(self, kind)

    def interrupted(self) -> str | None:
        """The name of the signal that the runs are to end after, if one came."""
        return self._interrupted()

    def ask(self, question: _Question) -> Prediction:
        """Waits until all runs ask, and for the answer."""
        with self._all_wait:
            if self._over is not None:
                raise _ended(self._over)
            self._waiting.append(question)
            self._look()
        question.answered.wait()
        if isinstance(question.answer, BaseException):
            raise question.answer
        assert question.answer is not None
        return question.answer

    def _look(self) -> None:
        # Not at every question: each would wake the thread that answers.
        if len(self._waiting) >= self._running:
            self._all_wait.notify()

    def _until_its_end(self, run: Callable[[], T]) -> T:
        try:
            return run()
        finally:
            with self._all_wait:
                self._running -= 1
                self._look()

    def _all_that_wait(self) -> list[_Question]:
        """The questions of all runs that go on, once each has one; none where none goes on."""
        with self._all_wait:
            self._all_wait.wait_for(lambda: len(self._waiting) >= self._running)
            questions, self._waiting = self._waiting, []
        return questions

    def _answer(self, questions: Sequence[_Question]) -> None:
        groups: dict[tuple[int, bool], list[_Question]] = {}
        for question in questions:
            groups.setdefault((id(question.kind), question.stress), []).append(question)
        for group in groups.values():
            try:
                answers: list[Prediction | BaseException] = [*_asked(group)]
            except Exception:
                # What is wrong with one of them, or too much of all, is no end of the others.
                answers = [_alone(question) for question in group]
            for question, answer in zip(group, answers, strict=True):
                question.tell(answer)


def _ended(error: BaseException) -> InterruptedError:
    ended = InterruptedError("the runs that shared their calls were ended")
    ended.__cause__ = error
    return ended


class _SharedPotential(LikeAnother):
    def __init__(self, together: Together, kind: _Kind) -> None:
        super().__init__()
        # In a tuple, where PyTorch does not look for modules.
        self._asks = together, kind

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        assert forces and differentiable == "nothing"
        together, kind = self._asks
        return together.ask(_Question(kind, graph, stress))

    @property
    def _like(self) -> Potential:
        return self._asks[1].prepared


def _asked(group: Sequence[_Question]) -> list[Prediction]:
    graphs = [question.graph for question in group]
    # What a run is told must not depend on who else is still there, and a structure by itself is
    # rounded otherwise: a mean over one is added up in another order than over several, and the
    # last rows of a product of matrices are worked out by themselves. So none is alone or last.
    first = graphs[0]
    graphs += [first] * math.ceil(_PADDING / max(1, first.n_atoms))
    said = group[0].kind.prepared(batch_graphs(graphs), stress=group[0].stress)
    parts = separate(said.detach().to("cpu"), [graph.n_atoms for graph in graphs])
    return parts[: len(group)]


def _alone(question: _Question) -> Prediction | BaseException:
    try:
        return _asked([question])[0]
    except Exception as error:
        return error
