"""`record`: a frozen dataclass with slots that costs a router half as much memory.

The standard decorator compiles a handful of methods anew for each class, and there are over a
hundred of them here. All classes share these; only `__init__` is made to measure. To the type
checker it is `dataclasses.dataclass`, and `field`, `fields` and `replace` work as with any other.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from dataclasses import dataclass as record

__all__ = ["record"]

if not TYPE_CHECKING:

    def record(*, frozen, slots, kw_only=False, repr=True):  # noqa: ANN001, ANN201
        """As `dataclasses.dataclass`; whatever the class has of its own stays."""

        def make(cls):  # noqa: ANN001, ANN202
            made = dataclass(frozen=frozen, slots=slots, kw_only=kw_only, repr=False, eq=False)(cls)
            names = [f.name for f in made.__dataclass_fields__.values() if f.compare]
            made._compared = attrgetter(*names) if names else staticmethod(_nothing)
            methods = {"__eq__": _eq, "__hash__": _hash, "__repr__": _repr if repr else None}
            for name, method in methods.items():
                if method is not None and name not in cls.__dict__:
                    setattr(made, name, method)
            if "__weakref__" in made.__dict__:
                # Before Python 3.11.3 it is left over from `cls`, and keeps all of that alive.
                del made.__weakref__
            made.__setattr__ = made.__delattr__ = _refuse
            return made

        return make


def _nothing(_: object) -> tuple[()]:
    return ()


def _eq(self: Any, other: Any) -> Any:  # noqa: ANN401 - of any class that `record` made
    same = type(other) is type(self)
    return self._compared(self) == self._compared(other) if same else NotImplemented


def _hash(self: Any) -> int:  # noqa: ANN401
    return hash(self._compared(self))


def _repr(self: Any) -> str:  # noqa: ANN401
    fields = (f.name for f in self.__dataclass_fields__.values() if f.repr)
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in fields)
    return f"{self.__class__.__qualname__}({shown})"


def _refuse(self: object, name: str, *_: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot change {name!r} of a {type(self).__name__}")
