"""Calls that may hang, made in threads of their own: a driver must not stand still because a GPU does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_Answer = TypeVar("_Answer")


class Patient(Generic[_Answer]):
    """Makes calls that are given so many seconds to answer.

    While an earlier call still hangs no further one is made: there is one stuck thread at the most. It is a daemon, and
    keeps no process from ending.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: threading.Thread | None = None

    def __call__(self, function: Callable[[], _Answer]) -> _Answer:
        """The answer of the function, or its exception.

        Raises:
            TimeoutError: it has not answered, or an earlier call still has not.
        """
        if self._last is not None and self._last.is_alive():
            raise TimeoutError
        answers: list[_Answer] = []
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                answers.append(function())
            except BaseException as error:  # it is raised again where it was asked for
                errors.append(error)

        self._last = threading.Thread(target=ask, daemon=True)
        self._last.start()
        self._last.join(self._seconds)
        if errors:
            raise errors[0]
        if not answers:
            raise TimeoutError
        return answers[0]
