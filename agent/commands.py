"""What the daemon does when a command asks for it (agent.control has the requests)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from agent import __version__, profiles
from agent.bridge.devices import NAME as DEVICE_NAME
from agent.bridge.grants import MAX_GRANTS, Role, parse_grant
from agent.bridge.grants import Peer as BridgePeer
from agent.config import NAME, ROLES
from agent.control import check_request, event_line
from agent.crypto.auth import PublicKey, key_text
from agent.daemon import str_address
from agent.engine.events import Enrolled, Event, MediatorChanged, PeerChanged
from agent.errors import (
    InputError,
    RefusedError,
    StorageError,
    TemporaryError,
    UnavailableError,
    UnknownNameError,
)
from agent.invitation import EnrolResult, Invitation, decode_invitation, encode_enrolment
from agent.invitation import encode_invitation as invitation_line
from agent.io.clock import monotonic
from agent.peers import KnownPeer
from board.errors import BoardError

if TYPE_CHECKING:
    from agent.daemon import Daemon

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
CONNECT_SECONDS = 60.0  # one attempt and a bit; then the person is told how it stands
ENROL_SECONDS = 60.0
QUEUE = 256  # events a slow watcher may lag behind before it misses some
INVITATION_MINIMUM, INVITATION_MAXIMUM = 60, 30 * 86400  # seconds
LOCAL = BridgePeer(name="local", role=Role.OWNER)  # whoever may use the control socket

_REFUSALS: dict[int, str] = {
    EnrolResult.USED: "This invitation has been used by another machine already; ask for a new "
    "one, and ask who used it.",
    EnrolResult.EXPIRED: "This invitation has expired; ask for a new one.",
    EnrolResult.INVALID: "The gateway could not verify our keys; are both of the same version?",
    EnrolResult.FULL: "The gateway cannot store one more peer; its log says why.",
}


class Commands:
    """One handler a command. Errors are HearthgateErrors; the control socket tells them."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.house = daemon.house

    async def handle(self, request: dict[str, Any], send: Send) -> None:
        """Carry out one request; the last line sent is final."""
        name, arguments = check_request(request)
        handler = getattr(self, f"on_{name}")
        try:
            result = await handler(send, **arguments)
        except BoardError as error:
            raise StorageError(error.sentence) from error
        await send({"final": True, "result": result})

    async def on_status(self, send: Send) -> dict[str, Any]:
        """Everything there is to know."""
        daemon, house = self.daemon, self.house
        status = asdict(daemon.engine.status(monotonic()))
        services = daemon.services
        return {
            "version": __version__,
            "name": house.name,
            "identity": key_text(house.keys.identity.public),
            "mediation": key_text(house.keys.mediation.public),
            "address": str_address(house.keys.address),
            "interface": daemon.tun.name if daemon.tun else "",
            "port": daemon.port,
            "uptime": round(monotonic() - daemon.started, 1),
            "mediates": house.config.mediate.address if house.config.mediate else None,
            **status,
            "devices": services.status() if services is not None else [],
            "invitations": [
                {"name": i.name, "role": i.role, "expires": i.expires, "used": bool(i.used_by)}
                for i in house.peers.invitations.values()
            ],
        }

    async def on_watch(self, send: Send) -> None:
        """Events until the client goes away."""
        async with _Events(self.daemon) as events:
            await send({"event": "Status", "status": await self.on_status(send)})
            while True:
                line = event_line(await events.next())
                if line is not None:
                    await send(line)

    async def on_connect(self, send: Send, peer: str) -> dict[str, Any]:
        """Ask for a tunnel and wait for it; it stays asked for."""
        self._known(peer)
        self.house.set_wanted(peer, True)
        started = monotonic()
        async with _Events(self.daemon) as events:
            self.daemon.drive(lambda now: self.daemon.engine.connect(peer, now))
            await self._until_up(peer, events, send, started)
        return {
            "peer": peer,
            "seconds": round(monotonic() - started, 4),
            "address": self.daemon.inner_address(peer),
            "status": self._peer_status(peer),
        }

    async def _until_up(self, peer: str, events: _Events, send: Send, started: float) -> None:
        status = self._peer_status(peer)
        if status["state"] == "up":
            return
        mediator = status.get("mediator", "")
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                while True:
                    event = await events.next()
                    self._mediator_failed(event, mediator, peer)
                    if not isinstance(event, PeerChanged) or event.name != peer:
                        continue
                    seconds = round(monotonic() - started, 3)
                    await send({"event": "progress", "state": event.state, "seconds": seconds})
                    if event.state == "up":
                        return
                    if event.state in ("waiting", "idle") and event.error:
                        raise TemporaryError(
                            f"{peer}: {event.error} hearthgate keeps trying; "
                            f"`hearthgate disconnect {peer}` ends that."
                        )
        except TimeoutError:
            status = self._peer_status(peer)
            why = status["error"] or self._mediator_trouble() or "no answer yet"
            raise TemporaryError(
                f"{peer}: not connected after {CONNECT_SECONDS:.0f} s ({why}) hearthgate keeps "
                f"trying; `hearthgate disconnect {peer}` ends that."
            ) from None

    @staticmethod
    def _mediator_failed(event: Event, mediator: str, peer: str) -> None:
        """Raises TemporaryError if the mediator on the way to `peer` just failed."""
        if isinstance(event, MediatorChanged) and event.name == mediator and event.error:
            raise TemporaryError(
                f"{peer}: mediator {mediator}: {event.error} hearthgate keeps trying; "
                f"`hearthgate disconnect {peer}` ends that."
            )

    def _mediator_trouble(self) -> str:
        for mediator in self.daemon.engine.status(monotonic()).mediators:
            if mediator.state != "registered":
                why = mediator.error or f"{mediator.state} since {mediator.since:.0f} s."
                return f"mediator {mediator.name}: {why}"
        return ""

    async def on_disconnect(self, send: Send, peer: str) -> dict[str, Any]:
        """Close a tunnel and stop asking for it."""
        self._known(peer)
        self.house.set_wanted(peer, False)
        self.daemon.drive(lambda now: self.daemon.engine.disconnect(peer, now))
        return {"peer": peer}

    async def on_rekey(self, send: Send, peer: str, ike: bool = False) -> dict[str, Any]:
        """New keys now."""
        self._known(peer)
        self.daemon.drive(lambda now: self.daemon.engine.rekey(peer, now, ike=ike))
        return {"peer": peer}

    async def on_invite(self, send: Send, name: str, role: str, seconds: int) -> dict[str, Any]:
        """Make an invitation."""
        self._check_name(name)
        if role not in ROLES[1:]:
            raise InputError(f"The role is one of {', '.join(ROLES[1:])}.")
        if not INVITATION_MINIMUM <= seconds <= INVITATION_MAXIMUM:
            raise InputError("An invitation lasts from one minute to 30 days.")
        invitation = self.house.invite(name, role, seconds)
        self.daemon.refresh()
        return {
            "invitation": invitation_line(invitation),
            "name": name,
            "role": role,
            "expires": invitation.expires,
        }

    async def on_accept(self, send: Send, invitation: str, name: str = "") -> dict[str, Any]:
        """Use an invitation: hand our keys over, store the gateway."""
        invited = decode_invitation(invitation)
        name = name or invited.name
        self._check_name(name)
        if invited.gateway_identity == self.house.keys.identity.public:
            raise InputError("This invitation is from this very machine; accept it on another one.")
        wall = self.house.wall()
        if wall is not None and 0 < invited.expires <= wall:
            raise InputError("This invitation has expired; ask for a new one.")
        known = self.house.peers.by_identity(key_text(invited.gateway_identity))
        taken = self.house.peers.peers.get(name)
        if (taken is not None and taken != known) or name in self.house.configured_names:
            raise InputError(f'There is a peer "{name}" already; take another with --name.')
        role = await self._hand_over(invited, send)
        peers = self.house.copy_peers()
        identity = key_text(invited.gateway_identity)
        before = peers.by_identity(identity)
        if before is not None:  # what it may do here stays
            del peers.peers[before.name]
        else:
            before = KnownPeer(
                name=name, identity=identity, mediation="", role="none", added=int(wall or 0)
            )
        peers.peers[name] = replace(
            before,
            name=name,
            mediation=key_text(invited.gateway_mediation),
            mediator=invited.mediator,
            mediator_key=key_text(invited.mediator_key),
        )
        self.house.save(peers)
        self.daemon.refresh()
        return {"peer": name, "role": role}

    async def _hand_over(self, invited: Invitation, send: Send) -> str:
        daemon, keys = self.daemon, self.house.keys
        try:
            mediator, peer = profiles.enrolment(invited)
        except ValueError as error:
            raise InputError(f"This invitation names no usable mediation server: {error}") from None
        if any(extra.name == peer.name for extra in daemon.extra_peers):
            raise TemporaryError("This invitation is being used at this moment.")
        data = encode_enrolment(
            keys.identity, keys.mediation, invited.identity.public, invited.gateway_identity
        )
        started = monotonic()
        async with _Events(daemon) as events:
            daemon.extra_mediators.append(mediator)
            daemon.extra_peers.append(peer)
            daemon.refresh()
            try:
                async with asyncio.timeout(ENROL_SECONDS):
                    await self._until_enrolling(peer.name, events, send, started)
                    daemon.drive(lambda now: daemon.engine.send_enrolment(peer.name, data, now))
                    while not isinstance(event := await events.next(), Enrolled):
                        pass
            except TimeoutError:
                why = self._mediator_trouble() or "the gateway does not answer."
                raise TemporaryError(f"The invitation could not be used yet: {why}") from None
            finally:
                daemon.extra_mediators.remove(mediator)
                daemon.extra_peers.remove(peer)
                daemon.refresh()
        if not event.answer:
            raise TemporaryError("The gateway went away while pairing; try the same line again.")
        result, role = event.answer[0], event.answer[1:].decode("ascii", "replace")
        if result != EnrolResult.ACCEPTED:
            raise RefusedError(_REFUSALS.get(result, "The gateway refused."))
        return role if role in ROLES else "unknown"

    async def _until_enrolling(
        self, name: str, events: _Events, send: Send, started: float
    ) -> None:
        while True:
            event = await events.next()
            if isinstance(event, MediatorChanged) and event.name == name and event.error:
                raise TemporaryError(
                    f"The invitation could not be used yet: {event.error} Then try the same line "
                    "again."
                )
            if isinstance(event, PeerChanged) and event.name == name:
                seconds = round(monotonic() - started, 3)
                await send({"event": "progress", "state": event.state, "seconds": seconds})
                if event.state == "up":
                    return
                if event.state == "waiting" and event.error:
                    raise UnavailableError(
                        f"The gateway could not be reached with this invitation: {event.error} "
                        "Or the invitation has expired."
                    )

    async def on_peers(self, send: Send) -> list[dict[str, Any]]:
        """Everybody paired or configured, without anything secret."""
        known = [
            {
                "name": p.name,
                "key": p.identity,
                "role": p.role,
                "grants": list(p.grants),
                "mediator": p.mediator,
                "configured": False,
            }
            for p in self.house.peers.peers.values()
        ]
        configured = [
            {
                "name": p.name,
                "key": key_text(p.key) if p.key else "",
                "role": p.role,
                "grants": list(p.grants),
                "mediator": p.mediator or p.host,
                "configured": True,
            }
            for p in self.house.config.peers
        ]
        return known + configured

    async def on_revoke(self, send: Send, peer: str) -> dict[str, Any]:
        """Forget a peer, or an invitation that nobody used; what it had open is closed at once."""
        peers = self.house.copy_peers()
        gone = [
            k
            for k, i in peers.invitations.items()
            if i.name == peer
            or i.used_by == (peers.peers[peer].identity if peer in peers.peers else None)
        ]
        if peer not in peers.peers and not gone:
            self._learnt(peer)
        peers.peers.pop(peer, None)
        for key in gone:
            del peers.invitations[key]
        self.house.save(peers)
        if self.daemon.services is not None:
            self.daemon.services.kick(peer)
        self.daemon.refresh()
        return {"peer": peer}

    async def on_grant(
        self,
        send: Send,
        peer: str,
        role: str | None = None,
        add: list[str] | None = None,
        remove: list[str] | None = None,
    ) -> dict[str, Any]:
        """Change what a peer may do; it holds at once."""
        known = self._learnt(peer)
        if role is not None and role not in ROLES:
            raise InputError(f"The role is one of {', '.join(ROLES)}.")
        for text in remove or []:
            if text not in known.grants:
                has = ", ".join(known.grants) or "none"
                raise InputError(f"{peer} has no grant {text!r:.60}; it has {has}.")
        grants = [g for g in known.grants if g not in (remove or [])]
        for text in add or []:
            try:
                parse_grant(str(text))
            except ValueError as error:
                raise InputError(f"{error}.") from None
            if text not in grants:
                grants.append(str(text))
        if len(grants) > MAX_GRANTS:
            raise InputError(f"A peer has at most {MAX_GRANTS} grants; a role says more.")
        changed = replace(known, role=role or known.role, grants=tuple(grants))
        peers = self.house.copy_peers()
        peers.peers[peer] = changed
        self.house.save(peers)
        self.daemon.refresh()
        if self.daemon.services is not None:
            self.daemon.services.kick(peer)
        return {"peer": peer, "role": changed.role, "grants": list(changed.grants)}

    async def on_devices(self, send: Send, peer: str = "") -> Any:  # noqa: ANN401  # JSON
        """What is behind a peer, or here."""
        if not peer:
            return self.daemon.services.status() if self.daemon.services else []
        return await self._ask(peer, send, "GET", "/api/devices")

    async def on_get(
        self, send: Send, device: str, peer: str = "", point: str | None = None
    ) -> Any:  # noqa: ANN401  # JSON
        """Read points of a device, through the tunnel or here."""
        self._check_point(device, point)
        if not peer:
            return await self._services().get(device, point, LOCAL)
        path = f"/api/points/{device}" + (f"/{point}" if point else "")
        return await self._ask(peer, send, "GET", path)

    async def on_set(
        self, send: Send, device: str, point: str, value: object, peer: str = ""
    ) -> Any:  # noqa: ANN401  # JSON
        """Write a point; limits are checked where the device is."""
        self._check_point(device, point)
        if not peer:
            return await self._services().set(device, point, value, LOCAL)
        return await self._ask(peer, send, "PUT", f"/api/points/{device}/{point}", {"value": value})

    async def on_audit(self, send: Send, count: int = 50) -> list[dict[str, Any]]:
        """The last writes to devices."""
        return self.house.audit_lines(max(1, min(count, 10000)))

    async def _ask(self, peer: str, send: Send, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401  # JSON
        from agent.web.client import request_json

        self._known(peer)
        if self._peer_status(peer)["state"] != "up":
            await self.on_connect(send, peer)
        address = self.daemon.inner_address(peer)
        if address is None:
            raise UnavailableError(f"{peer}: it has no services of hearthgate's kind.")
        return await request_json(address, method, path, body)

    def _services(self) -> Any:  # noqa: ANN401  # imported only where devices are configured
        if self.daemon.services is None:
            raise UnknownNameError(
                f"No device is configured on this machine ({self.house.layout.config})."
            )
        return self.daemon.services

    def _peer_status(self, name: str) -> dict[str, Any]:
        peers = self.daemon.engine.status(monotonic()).peers
        return next((asdict(p) for p in peers if p.name == name), {"state": "idle", "error": ""})

    def _known(self, name: str) -> None:
        names = [p.name for p in self.daemon.engine.status(monotonic()).peers]
        if name not in names:
            raise UnknownNameError(_no_such_peer(name, names))

    def _learnt(self, name: str) -> KnownPeer:
        known = self.house.peers.peers.get(name)
        if known is not None:
            return known
        if any(p.name == name for p in self.house.config.peers):
            raise InputError(
                f"{name} stands in {self.house.layout.config}; change it there by hand."
            )
        raise UnknownNameError(_no_such_peer(name, list(self.house.peers.peers)))

    @staticmethod
    def _check_point(device: str, point: str | None) -> None:
        """They become part of a path; what is no name is nobody's."""
        for what, name in (("device", device), ("point", point)):
            if name is not None and not DEVICE_NAME.fullmatch(name):
                raise UnknownNameError(f"There is no {what} {name!r:.40}.")

    @staticmethod
    def _check_name(name: str) -> None:
        if not NAME.fullmatch(name):
            raise InputError("A name has 1 to 63 letters, digits, dots, dashes or underscores.")


def public_pem(raw: bytes) -> str:
    """A public key as strongSwan reads it (swanctl/pubkey)."""
    return PublicKey(raw).pem().decode()


def _no_such_peer(name: str, names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:10])
    return f'There is no peer "{name[:63]}"; ' + (f"known are {shown}." if names else "none is.")


class _Events:
    """The daemon's events while a command runs, bounded."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE)

    async def __aenter__(self) -> _Events:
        self._daemon.listeners.add(self._put)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._daemon.listeners.discard(self._put)

    def _put(self, event: Event) -> None:
        if not self._queue.full():
            self._queue.put_nowait(event)

    async def next(self) -> Event:
        """The next event."""
        return await self._queue.get()
