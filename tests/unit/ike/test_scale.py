"""A mediator's many idle IKE SAs: each small, none in the way of the others' packets."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from dataclasses import replace

from agent.datagram import Address, Path, Transmit
from agent.ike.pad import KeyAuth, Peer
from agent.ike.table import Ike
from agent.wire.payloads import Identification
from tests.support.pair import B_ADDRESS, ike_proposals, key_of, seeded

SERVER = key_of("server")
PROPOSALS = ike_proposals()


class Anybody:
    """A Pad that takes a pseudonym for its key, as our mediator does."""

    def responder_proposals(self, path, request):
        return PROPOSALS

    def certificate_requests(self, request):
        return ()

    def find_peer(self, remote_id, local_id, context):
        return Peer(
            name=remote_id.text,
            local_id=Identification.key_id(SERVER.public),
            remote_id=remote_id,
            local_auth=SERVER,
            remote_auth=KeyAuth(public=remote_id.data),
            proposals=PROPOSALS,
        )


def _transmitted(ike: Ike) -> list[bytes]:
    found = []
    while (output := ike.poll_output()) is not None:
        if isinstance(output, Transmit):
            found.append(output.data)
    return found


def _join(server: Ike, number: int) -> tuple[Ike, Path]:
    """One more client, registered; what it sees as path."""
    key = key_of(f"client {number}")
    address = Address(bytes((10, 1, number >> 8, number & 255)), 4500)
    peer = replace(
        Anybody().find_peer(Identification.key_id(SERVER.public), None, ()),
        local_id=Identification.key_id(key.public),
        local_auth=key,
    )
    client = Ike(pad=Anybody(), random=seeded(f"client {number}"))
    path = Path(address, B_ADDRESS)
    client.connect(peer, path, 0.0)
    for _ in range(2):
        (request,) = _transmitted(client)
        server.receive(Path(B_ADDRESS, address), request, 0.0)
        (response,) = _transmitted(server)
        client.receive(path, response, 0.0)
    return client, path


def _server() -> Ike:
    return Ike(pad=Anybody(), random=seeded("server"))


def test_an_idle_childless_sa_is_small() -> None:
    server = _server()
    for number in range(20):
        _join(server, number)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(20, 120):
            _join(server, number)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(server) == 120
    assert (after - before) / 100 < 4500  # octets, peer and identity included


def test_a_packet_costs_the_same_among_many() -> None:
    """Counted in calls of functions, so it is the same on each machine."""

    def calls_for_one_probe(others: int) -> int:
        server = _server()
        client, path = _join(server, 0)
        for number in range(1, others):
            _join(server, number)
        client.check_liveness(client.sas()[0].ike_id, 1.0)
        (request,) = _transmitted(client)
        count = 0

        def profile(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        gc.disable()
        sys.setprofile(profile)
        try:
            server.receive(Path(path.remote, path.local), request, 1.0)
            server.next_timeout()
        finally:
            sys.setprofile(None)
            gc.enable()
        assert len(_transmitted(server)) == 1
        return count

    few, many = calls_for_one_probe(3), calls_for_one_probe(150)
    assert abs(many - few) <= 10  # a heap is a few comparisons deeper
