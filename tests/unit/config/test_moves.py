"""Which mediation server took over from which, and what that makes of the registrations."""

from __future__ import annotations

import json

import pytest

from agent import profiles
from agent.config import load_config
from agent.crypto.auth import key_text
from agent.engine.entries import MediatorPlace
from agent.moves import MAX_MOVES, NO_MOVES, Moves
from agent.peers import KnownPeer, Peers
from tests.support.pair import key_of

KEYS = profiles.Keys(identity=key_of("me"), mediation=key_of("mediation me"))
ONE, TWO, THREE = (MediatorPlace(f"m{n}", 4500, key_of(f"m{n}").public) for n in (1, 2, 3))


def config(*places: MediatorPlace):
    return load_config(
        "".join(
            f'[mediator.{p.host}]\naddress = "{p.address}"\nkey = "{key_text(p.key)}"\n'
            for p in places
        )
    )


def known(name: str, place: MediatorPlace) -> KnownPeer:
    return KnownPeer(
        name=name,
        identity=key_text(key_of(name).public),
        mediation=key_text(key_of("mediation " + name).public),
        mediator=place.address,
        mediator_key=key_text(place.key),
    )


def entries(config_, moves: Moves, *peers: KnownPeer):
    return profiles.mediators(config_, KEYS, Peers(peers), moves)


def moved(config_, *pairs: tuple[str, MediatorPlace], peers=()) -> Moves:
    moves = NO_MOVES
    for name, place in pairs:
        entry = next(e for e in entries(config_, NO_MOVES, *peers) if e.name == name)
        moves = moves.noted(entry, place)
    return moves


def test_json_both_ways():
    both = MediatorPlace("2001:db8::1", 4600, TWO.key)
    moves = moved(config(ONE, THREE), ("m1", TWO), ("m3", both))
    stored = json.loads(json.dumps(moves.to_json()))
    assert Moves.from_json(stored) == moves
    assert stored["moves"][0] == {
        "from": f"m1#{key_text(ONE.key)}",
        "to": f"m2#{key_text(TWO.key)}",
    }
    assert stored["moves"][1]["to"].startswith("[2001:db8::1]:4600#")


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"moves": 1},
        {"moves": [1]},
        {"moves": [{"from": "a"}]},
        {"moves": [{"from": 1, "to": 2}]},
        {"moves": [{"from": "a#b", "to": "c#d"}]},
    ],
)
def test_what_is_no_list(state):
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        Moves.from_json(state)


def test_back_again_is_forgotten():
    moves = moved(config(ONE), ("m1", TWO))
    (entry,) = entries(config(ONE), moves)
    assert entry.moved == TWO
    assert moves.noted(entry, None) == NO_MOVES
    assert moves.noted(entry, ONE) == NO_MOVES
    assert moves.noted(entry, TWO) is moves


def test_a_move_makes_no_other_entry():
    """Else the registration that has just moved would be ended and begun anew."""
    before = entries(config(ONE), NO_MOVES)
    assert entries(config(ONE), moved(config(ONE), ("m1", TWO))) == before


def test_there_is_an_end():
    moves = NO_MOVES
    (entry,) = entries(config(ONE), NO_MOVES)
    from dataclasses import replace

    for number in range(MAX_MOVES + 10):
        moves = moves.noted(replace(entry, host=f"h{number}"), TWO)
    assert len(moves.pairs) == MAX_MOVES
    assert moves.of(replace(entry, host="h9")) is None


def standing(found) -> list[str]:
    return [e.name for e in found if not e.is_covered]


def test_two_that_lead_to_one_server_are_one_registration():
    both, peers = config(ONE, TWO), (known("a", ONE), known("b", TWO))
    moves = moved(both, ("m1", TWO))
    assert standing(entries(both, moves, *peers)) == ["m2"]
    found = profiles.peers(both, KEYS, Peers(peers), moves)
    assert [(p.name, p.mediator) for p in found] == [("a", "m2"), ("b", "m2")]


def test_three_that_lead_to_one_server_are_one_registration():
    three = config(ONE, TWO, THREE)
    moves = moved(three, ("m1", THREE), ("m2", THREE))
    assert standing(entries(three, moves)) == ["m3"]
    two = config(ONE, TWO)
    moves = moved(two, ("m1", THREE), ("m2", THREE))
    entry, covered = entries(two, moves)
    assert (entry.name, entry.moved, entry.is_covered) == ("m1", THREE, False)
    assert (covered.name, covered.moved, covered.is_covered) == ("m2", THREE, True)


def test_two_that_changed_places_stay_two():
    both = config(ONE, TWO)
    moves = moved(both, ("m1", TWO), ("m2", ONE))
    assert [(e.name, e.moved) for e in entries(both, moves)] == [("m1", TWO), ("m2", ONE)]


def test_without_moves_nothing_is_put_together():
    again = MediatorPlace("other-name", 4500, ONE.key)
    assert len(entries(config(ONE, again), NO_MOVES)) == 2


def test_a_server_that_is_known_by_a_secret_is_not_remembered():
    text = '[mediator.m]\naddress = "m"\nid = "ms"\nlocal_id = "me"\npsk = "correct horse battery"'
    (entry,) = entries(load_config(text), NO_MOVES)
    assert NO_MOVES.noted(entry, TWO) is NO_MOVES
