"""The composition root and the only driver: sockets, TUN, one timer, outputs → I/O.

Nothing is decided here that another room can decide; commands are in `agent.commands`, what is kept
on disk in `agent.house`, routes and inner addresses in `agent.tunnels`. A little longer than the
soft limit: what is left is one loop, and each of its callbacks is short.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from agent import profiles
from agent.config import IKE_PORT
from agent.datagram import Address, Path, Transmit
from agent.engine import Engine
from agent.engine.events import (
    Enrolled,
    Event,
    MediatorChanged,
    MediatorMoved,
    Notice,
    Packets,
    PeerChanged,
    ResolveWanted,
    TunnelDown,
    TunnelUp,
)
from agent.errors import HearthgateError, PlatformError
from agent.io.clock import monotonic
from agent.io.netlink import Netlink, NetlinkWatch
from agent.io.resolve import resolve
from agent.io.tun import Tun
from agent.io.udp import UdpSocket
from agent.ipsec import Offload
from agent.tunnels import Tunnels, str_address

if TYPE_CHECKING:
    from agent.bridge.grants import Peer as BridgePeer
    from agent.engine.entries import MediatorEntry, PeerEntry
    from agent.forward import Forwards
    from agent.house import House
    from agent.ike.tickets import Tickets
    from agent.services import Services

log = logging.getLogger("agent.daemon")

TUN_ROUNDS = 4  # full batches of packets that are read before the sockets get their turn
EXPIRY_SECONDS = 60.0  # how often invitations and ticket keys are looked at
# How often the date is looked at, to be remembered. Not at the start: a board's clock is put right
# in its first minutes, and a date too late would keep certificates out until it has come.
NOTE_SECONDS = 3600.0
MISTAKES_LOGGED = 20  # whoever can provoke one can provoke millions
Listener = Callable[[Event], None]


class Daemon:
    """One running hearthgate. `house` has what it knows; `engine` does the work."""

    def __init__(self, house: House, key_log: Callable[[str], None] | None = None) -> None:
        self.house = house
        self.started = monotonic()
        self.counters: Counter[str] = Counter()
        self.listeners: set[Listener] = set()
        self.extra_mediators: list[MediatorEntry] = []
        self.extra_peers: list[PeerEntry] = []
        self.services: Services | None = None
        self.forwards: Forwards | None = None  # made when somebody asks for one
        self.stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._armed: float | None = None
        self._sockets: dict[tuple[int, int], UdpSocket] = {}
        self._waiting: set[UdpSocket] = set()
        self._netlink = Netlink()
        self._watch = NetlinkWatch()
        self.tun: Tun | None = None
        self.tunnels = Tunnels(self._netlink, house.keys.address, house.config)
        self.port = 0
        self._open()
        self._tickets = self._tickets_of_a_server()
        self.engine = Engine(
            random=os.urandom,
            proposals=profiles.OUR_IKE,
            enrol=self._enrol,
            offload=Offload(vnet=self.tun.vnet, udp=self.tun.udp_segmentation)
            if self.tun
            else None,
            mtu=house.config.mtu,
            key_log=key_log,
            restart_secret=profiles.restart_secret(house.config, house.keys),
            tickets=self._tickets,
            wall=house.date,
        )

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Everything that runs without waiting: engine, sockets, timer."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets.values():
            loop.add_reader(sock.fileno(), self._on_udp, sock)
        loop.add_reader(self._watch.fileno(), self._on_netlink)
        if self.tun is not None:
            loop.add_reader(self.tun.fileno(), self._on_tun)
        entry = profiles.server(self.house.config, self.house.keys)
        if entry is not None:
            self.engine.serve(entry)
        self._tell_addresses()
        self.refresh()
        self.spawn(self._expire_invitations())
        self.spawn(self._note_time())

    async def start_services(self) -> None:
        """The listeners for the devices, on the inner address.

        A gateway that has no device yet says so, instead of keeping its operators waiting.
        """
        config = self.house.config
        if self.tun is not None and (config.devices or config.mediators):
            from agent.services import Services

            self.services = Services(
                config.devices,
                [str_address(ip) for ip in (self.house.keys.address, config.own_ipv4) if ip],
                self.tun.name,
                self.peer_at,
                self.house.audit,
                on_listening=self.refresh,
            )
            await self.services.start()

    async def stop(self) -> None:
        """Say goodbye to everybody and give everything back."""
        if self.forwards is not None:
            await self.forwards.stop()
        if self.services is not None:
            await self.services.stop()
        await self.say_last_words()
        now = monotonic()
        self.engine.close(now)
        self._drain()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        loop = asyncio.get_running_loop()
        self.tunnels.close()
        for closing in (*self._sockets.values(), self._watch, self.tun):
            if closing is not None:
                loop.remove_reader(closing.fileno())
                closing.close()
        self._netlink.close()
        if self._timer is not None:
            self._timer.cancel()
        self.house.close()

    async def say_last_words(self) -> None:
        """Send what the kernel says of connections that were just ended, as long as there is a way.

        Without it the program at the other end would wait until its own patience ends.
        """
        await asyncio.sleep(0)  # they are closed in the next turn of the loop
        if self.tun is not None:
            self._on_tun()

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run a coroutine beside the loop; its failure is logged, never lost."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task failed: %s: %s", type(error).__name__, error)

    def refresh(self) -> None:
        """Peers, invitations or mediators changed: tell the engine all of them."""
        now = monotonic()
        house = self.house
        listening = self.services.listening if self.services is not None else frozenset()
        # Registrations first: peers that are wanted look for theirs at once.
        self.engine.set_mediators(house.mediators() + self.extra_mediators, now)
        peers = profiles.peers(house.config, house.keys, house.peers, house.moves, listening)
        self.engine.set_peers(peers + self.extra_peers, now)
        self._drain()

    def drive(self, verb: Callable[[float], None]) -> None:
        """Call a verb of the engine with the time, and carry out what it led to."""
        verb(monotonic())
        self._drain()

    def peer_at(self, address: str) -> BridgePeer | None:
        """Who is behind an inner address."""
        name = self.tunnels.peer_at(address)
        return self.house.bridge_peer(name) if name is not None else None

    def is_own(self, ip: bytes) -> bool:
        """Whether this machine has the address."""
        return any(a.ip == ip for a in self._netlink.addresses())

    # --- opening ------------------------------------------------------------------------------

    def _open(self) -> None:
        config = self.house.config
        self._open_sockets(config.port, with_ike_port=config.mediate is not None or config.direct)
        if config.needs_tun:
            self.tun = Tun(config.tun, config.mtu)
            self.tunnels.attach(self.tun, self._watch)

    def _open_sockets(self, port: int, *, with_ike_port: bool) -> None:
        natt = UdpSocket(port)
        self.port = natt.port
        self._sockets[(self.port, 4)] = natt
        ports = [self.port]
        if with_ike_port:
            try:
                self._sockets[(IKE_PORT, 4)] = UdpSocket(IKE_PORT)
                ports.append(IKE_PORT)
            except PlatformError as error:
                log.warning("%s; peers that begin on port 500 cannot reach us", error)
        for each in ports:
            try:
                self._sockets[(each, 16)] = UdpSocket(each, socket.AF_INET6)
            except PlatformError as error:
                log.info("no IPv6: %s", error)
                break

    # --- what arrives -------------------------------------------------------------------------

    def _on_udp(self, sock: UdpSocket) -> None:
        batch = sock.receive()
        if batch:
            try:
                self.engine.receive_datagrams(batch, monotonic())
            except Exception:
                # A mistake of ours that somebody's datagram found must not cost the others.
                self._on_mistake("a datagram")
            self._drain()

    def _on_mistake(self, what: str) -> None:
        self.counters["mistake"] += 1
        if self.counters["mistake"] <= MISTAKES_LOGGED:
            log.exception("hearthgate made a mistake with %s; please report this", what)

    def _on_tun(self) -> None:
        tun = self.tun
        assert tun is not None
        for _ in range(TUN_ROUNDS):
            packets = tun.receive()
            if not packets:
                break
            try:
                self.engine.receive_packets(packets, monotonic())
            except Exception:
                self._on_mistake("a packet")
            self._drain()

    def _on_timer(self) -> None:
        self._armed = None
        try:
            self.engine.handle_timer(monotonic())
        except Exception:
            self._on_mistake("a deadline")
        self._drain()

    def _on_netlink(self) -> None:
        if self._watch.drain():
            try:
                self._tell_addresses()
            except Exception:
                self._on_mistake("a change of the network")
            self._drain()

    def _tell_addresses(self) -> None:
        addresses = [
            Address(a.ip, self.port)
            for a in self._netlink.addresses()
            if a.index != self.tunnels.device and usable(a.ip)
        ]
        self.engine.set_local_addresses(addresses, monotonic())

    # --- what goes out ------------------------------------------------------------------------

    def _drain(self) -> None:
        """Carry out all outputs of the engine, then arm the one timer."""
        engine = self.engine
        batches: dict[UdpSocket, list[Transmit]] = {}
        while (output := engine.poll_output()) is not None:
            if isinstance(output, Transmit):
                local = output.path.local
                sock = self._sockets.get((local.port, len(output.path.remote.ip)))
                if sock is None:
                    self.counters["no_socket"] += 1
                elif (batch := batches.get(sock)) is not None:
                    batch.append(output)
                else:
                    batches[sock] = [output]
            elif isinstance(output, Packets):
                if self.tun is not None:
                    self.tun.write(output.writes)
            else:
                self._on_event(output)
        if self.tun is not None and self.tun.unfinished != engine.takes_unfinished:
            self.tun.set_unfinished(engine.takes_unfinished)
        for sock, transmits in batches.items():
            sock.send(transmits)
            if sock.wants_write:
                self._wait_writable(sock)
        self._arm()

    def _wait_writable(self, sock: UdpSocket) -> None:
        if sock not in self._waiting:
            self._waiting.add(sock)
            asyncio.get_running_loop().add_writer(sock.fileno(), self._on_writable, sock)

    def _on_writable(self, sock: UdpSocket) -> None:
        sock.flush()
        if not sock.wants_write:
            self._waiting.discard(sock)
            asyncio.get_running_loop().remove_writer(sock.fileno())

    def _arm(self) -> None:
        deadline = self.engine.next_timeout()
        if deadline is None or (self._armed is not None and self._armed <= deadline):
            return  # a timer that comes too early finds nothing to do, and is armed anew then
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, deadline - monotonic())
        self._armed = deadline
        self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_event(self, event: Event) -> None:
        match event:
            case ResolveWanted():
                self.spawn(self._resolve(event))
            case TunnelUp() | TunnelDown():
                self.tunnels.change(event)
            case MediatorChanged():
                log.info("mediator %s: %s%s", event.name, event.state, _because(event.error))
            case MediatorMoved():
                self._on_moved(event)
            case PeerChanged():
                log.info("peer %s: %s%s", event.name, event.state, _because(event.error))
            case Notice(text=text):
                log.warning("%s", text)
            case Enrolled() | Packets():
                pass
        for listener in tuple(self.listeners):
            listener(event)

    def _on_moved(self, event: MediatorMoved) -> None:
        there = event.successor
        where = f"handed us over to {there.address}" if there is not None else "has us again"
        log.info("mediator %s: %s", event.name, where)
        self.house.set_moved(event.name, there)
        # Two registrations may lead to one server now: then one is enough.
        asyncio.get_running_loop().call_soon(self.refresh)

    async def _resolve(self, wanted: ResolveWanted) -> None:
        try:
            found = await resolve(wanted.host, wanted.port)
        except HearthgateError as error:
            sentence = error.sentence
            self.drive(lambda now: self.engine.not_resolved(wanted.key, sentence, now))
            return
        paths = []
        for remote in found:
            source = self._netlink.source_towards(remote.ip)
            if source is not None:
                paths.append(Path(Address(source, self.port), remote))
        self.drive(lambda now: self.engine.resolved(wanted.key, paths, now))

    # --- what the engine asks -----------------------------------------------------------------

    def _enrol(self, one_time: bytes, data: bytes) -> bytes:
        answer, changed = self.house.enrol(one_time, data)
        if changed:
            asyncio.get_running_loop().call_soon(self.refresh)
        return answer

    def _tickets_of_a_server(self) -> Tickets | None:
        if self.house.config.mediate is None:
            return None
        from agent.ike.tickets import Tickets  # few machines are one

        tickets = Tickets(os.urandom, self.house.wall)
        tickets.keys = self.house.ticket_keys()
        return tickets

    async def _expire_invitations(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_SECONDS)
            if self._tickets is not None:
                self._tickets.keys = self.house.ticket_keys()
            if self.house.expire_invitations(EXPIRY_SECONDS):
                self.refresh()

    async def _note_time(self) -> None:
        while True:
            await asyncio.sleep(NOTE_SECONDS)
            self.house.note_time()

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT end it in good order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)


def usable(ip: bytes) -> bool:
    """Whether a local address can be an endpoint: no loopback, no link-local address."""
    if len(ip) == 4:
        return ip[0] != 127 and ip[:2] != b"\xa9\xfe"
    return (
        ip[0] != 0xFF and not (ip[0] == 0xFE and ip[1] & 0xC0 == 0x80) and ip != bytes(15) + b"\1"
    )


def _because(error: str) -> str:
    return f" ({error})" if error else ""
