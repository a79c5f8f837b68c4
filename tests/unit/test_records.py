"""agent.records: what `record` makes is what `dataclasses.dataclass` makes."""

from __future__ import annotations

import copy
import gc
import weakref
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace

import pytest

from agent.records import record


def make(decorator):
    @decorator(frozen=True, slots=True, kw_only=True)
    class Thing:
        """A thing."""

        name: str
        secret: bytes = field(repr=False, default=b"s")
        note: str = field(compare=False, default="")

    return Thing


OURS, THEIRS = make(record), make(dataclass)


@pytest.mark.parametrize("made", [OURS, THEIRS], ids=["record", "dataclass"])
def test_it_behaves_as_the_standard_one(made):
    thing = made(name="a")
    assert thing == made(name="a", note="else")
    assert hash(thing) == hash(made(name="a", note="else"))
    assert thing != made(name="b")
    assert thing != made(name="a", secret=b"t")
    assert thing != ("a", b"s")
    assert repr(thing).endswith("Thing(name='a', note='')")
    assert replace(thing, name="c") == made(name="c")
    assert [f.name for f in fields(made)] == ["name", "secret", "note"]
    assert not hasattr(thing, "__dict__")
    with pytest.raises(FrozenInstanceError):
        thing.name = "d"
    with pytest.raises(FrozenInstanceError):
        del thing.name
    with pytest.raises(TypeError):
        made("a")


def test_what_a_class_has_of_its_own_stays():
    @record(frozen=True, slots=True)
    class Own:
        value: int

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

        def __repr__(self) -> str:
            return "own"

    assert Own(1) == Own(2)
    assert (hash(Own(1)), repr(Own(1))) == (1, "own")


def test_without_repr_nothing_is_shown():
    @record(frozen=True, slots=True, repr=False)
    class Secret:
        value: bytes

    assert "hidden" not in repr(Secret(b"hidden"))


def test_the_class_without_slots_goes():
    """The one that was decorated; it would stay beside each of over a hundred others."""

    class Before:
        value: int

        def doubled(self) -> int:
            return 2 * self.value

    gone = weakref.ref(Before)
    made = record(frozen=True, slots=True)(Before)
    del Before
    gc.collect()
    assert gone() is None
    assert made(3).doubled() == 6
    assert copy.deepcopy(made(3)) == made(3)
    with pytest.raises(TypeError):
        weakref.ref(made(3))


def test_one_without_fields():
    @record(frozen=True, slots=True)
    class Empty:
        """Nothing."""

    assert Empty() == Empty()
    assert hash(Empty()) == hash(Empty())
