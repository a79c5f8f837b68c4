"""What is offered and what is probed: mediation.md §2, §3, §5."""

from __future__ import annotations

import pytest

from agent.datagram import Address
from agent.mediation.endpoints import (
    collect,
    is_private,
    is_usable,
    received,
    relayable,
    resolve_base,
    same_base,
)
from agent.wire.codes import EndpointFamily, EndpointType
from agent.wire.mediation import PRIORITY_HOST, PRIORITY_SERVER_REFLEXIVE, MeEndpoint


def at(host: str, port: int = 4500) -> Address:
    return Address.parse(host, port)


def host(text: str, priority: int = PRIORITY_HOST, port: int = 4500) -> MeEndpoint:
    return MeEndpoint.of(EndpointType.HOST, at(text, port), priority)


@pytest.mark.parametrize(
    "text",
    [
        "192.168.1.10",
        "10.0.0.1",
        "100.64.0.7",
        "203.0.113.21",
        "2001:db8::1",
        "fd00::1",
        "64:ff9b::c000:201",
    ],
)
def test_usable(text: str) -> None:
    assert is_usable(at(text))


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.0.9",
        "169.254.3.4",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:192.0.2.1",
        "fe80::1",
        "ff02::1",
        "fec0::1",
        "100::1",
    ],
)
def test_never_probed(text: str) -> None:
    assert not is_usable(at(text))
    assert received([host(text)]) == ()
    assert collect([at(text)], []) == ()


def test_port_zero_is_never_probed() -> None:
    assert not is_usable(at("192.0.2.1", 0))


def test_addresses_of_a_wrong_length_are_not_usable() -> None:
    assert not is_usable(Address(b"", 4500))
    assert not is_usable(Address(b"\x20" * 5, 4500))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("172.31.255.1", True),
        ("172.32.0.1", False),
        ("192.168.0.1", True),
        ("192.169.0.1", False),
        ("100.64.0.1", True),
        ("100.128.0.1", False),
        ("203.0.113.1", False),
        ("fd00::1", True),
        ("2001:db8::1", False),
    ],
)
def test_private(text: str, expected: bool) -> None:
    assert is_private(at(text)) is expected


def test_offer_has_the_priorities_of_the_draft_and_unique_ones() -> None:
    offer = collect(
        [at("192.168.1.10"), at("10.0.0.2")], [(at("198.51.100.1", 7000), at("192.168.1.10"))]
    )
    assert [(e.type, e.priority) for e in offer] == [
        (EndpointType.HOST, 0x00FFFFFF),
        (EndpointType.HOST, 0x00FFFFFE),
        (EndpointType.SERVER_REFLEXIVE, 0x0040FFFF),
    ]
    assert offer[2].base == at("192.168.1.10")
    assert offer[2].offered.encode().hex() == "0040ffff" + "01" + "03" + "1b58" + "c6336401"


def test_offer_drops_what_is_redundant_and_port_500() -> None:
    home = at("192.168.1.10")
    offer = collect([home, home, at("10.0.0.1", 500)], [(home, home), (at("198.51.100.1"), home)])
    assert [str(e.address) for e in offer] == ["192.168.1.10:4500", "198.51.100.1:4500"]


def test_offer_is_at_most_17_and_keeps_the_reflexive_one() -> None:
    hosts = [at(f"10.0.{i}.1") for i in range(30)]
    offer = collect(hosts, [(at("198.51.100.1"), hosts[0])])
    assert len(offer) == 17
    assert offer[-1].type is EndpointType.SERVER_REFLEXIVE


def test_received_ignores_unknown_types_families_and_missing_addresses() -> None:
    offers = [
        MeEndpoint(1, EndpointFamily.NONE, EndpointType.HOST, None),
        MeEndpoint(1, 9, EndpointType.HOST, None),
        MeEndpoint.of(77, at("192.0.2.1"), 5),
        host("192.0.2.2"),
    ]
    assert [str(e.address) for e in received(offers)] == ["192.0.2.2:4500"]
    assert len(relayable(offers)) == 1


def test_received_is_sorted_bounded_and_without_repetition() -> None:
    offers = [host(f"10.1.{i}.1", priority=i) for i in range(100)]
    offers.append(host("10.1.99.1", priority=1000))
    kept = received(offers)
    assert len(kept) == 17
    assert [e.priority for e in kept] == [1000, *range(98, 82, -1)]


def test_received_leaves_out_what_is_excluded() -> None:
    offers = [host("203.0.113.10"), host("203.0.113.10", port=4501)]
    kept = received(offers, {at("203.0.113.10")})
    assert [e.address.port for e in kept if e.address] == [4501]


def test_equal_priorities_are_accepted() -> None:
    assert len(received([host("192.0.2.1"), host("192.0.2.2")])) == 2


def test_base_of_a_socket_that_leaves_the_choice_to_the_kernel() -> None:
    anything = at("0.0.0.0")
    assert resolve_base(anything, [at("2001:db8::1"), at("192.168.1.10")]) == at("192.168.1.10")
    assert resolve_base(at("10.0.0.9"), [at("192.168.1.10")]) == at("10.0.0.9")
    assert resolve_base(anything, []) == anything
    assert same_base(anything, at("192.168.1.10"))
    assert not same_base(anything, at("192.168.1.10", 4501))
    assert not same_base(anything, at("2001:db8::1"))
    assert not same_base(at("192.168.1.11"), at("192.168.1.10"))


def test_reflexive_priority_is_what_strongswan_uses() -> None:
    (only,) = collect([], [(at("198.51.100.1"), at("192.168.1.10"))])
    assert only.priority == PRIORITY_SERVER_REFLEXIVE
