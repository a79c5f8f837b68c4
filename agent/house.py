"""What a machine keeps: configuration, keys, peers, audit log. board.storage writes it."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent import profiles
from agent.bridge.audit import encode_line
from agent.config import NATT_PORT, Config, MediateConfig, load_config, split_host
from agent.crypto.auth import SigningKey, key_text, load_private_key
from agent.engine.entries import MediatorPlace
from agent.errors import ConfigError, InputError
from agent.invitation import EnrolResult, Invitation, decode_enrolment
from agent.moves import NO_MOVES, Moves
from agent.peers import MAX_INVITATIONS, OpenInvitation, Peers
from agent.timers import WallTime
from board import storage
from board.append_log import AppendLog
from board.clock import BUILT, SavedTime, is_disciplined
from board.errors import DamagedFileError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.bridge.grants import Peer as BridgePeer
    from agent.crypto.ticket import TicketKey
    from agent.engine.entries import MediatorEntry
    from agent.layout import Layout
    from agent.ticket_keys import TicketKeys

log = logging.getLogger("agent.house")

AUDIT_OCTETS = 256 * 1024  # of one audit file; two are kept, some 2,000 writes
PEERS_VERSION = 1
MOVES_VERSION = 1
CONFIG_OCTETS = 1 << 20  # people do not write more
NAMED_OCTETS = (1 << 16) + 1  # of a file that it names: a key, some certificates


class House:
    """Everything of one machine that outlives a run."""

    def __init__(
        self,
        layout: Layout,
        config: Config,
        keys: profiles.Keys,
        peers: Peers,
        moves: Moves = NO_MOVES,
    ) -> None:
        self.layout = layout
        self.config = config
        self.keys = keys
        self.peers = peers
        self.moves = moves
        self._moves_file = storage.JsonState(layout.moves, version=MOVES_VERSION)
        self._file = storage.JsonState(layout.peers, version=PEERS_VERSION)
        self._time = SavedTime(layout.time)
        self._audit = AppendLog(layout.audit, max_octets=AUDIT_OCTETS)
        self._ticket_keys: TicketKeys | None = None

    @classmethod
    def open(cls, layout: Layout, mediate: str | None = None) -> House:
        """Read what there is and make what is missing (keys, folders). Raises HearthgateError.

        `mediate` not None: be a mediation server, with or without a configuration; the text is
        the address that others are told, empty for this machine's name.
        """
        config = read_config(layout)
        if mediate is not None or config.mediate is not None:
            config = _mediating(config, mediate or "", str(layout.config))
        keys = profiles.Keys(
            identity=_key(layout.identity_key), mediation=_key(layout.mediation_key)
        )
        storage.make_folder(layout.state)
        storage.sweep(layout.state)
        try:
            content = storage.JsonState(layout.peers, version=PEERS_VERSION).load()
        except DamagedFileError as error:
            # The file was kept aside. Without peers nobody gets in, but the board stays reachable
            # for whoever the configuration names.
            log.error("%s", error)
            content = None
        try:
            peers = Peers.from_json(dict(content)) if content is not None else Peers()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StorageError(
                f"{layout.peers}: this is not a list of peers ({error}); restore it from a backup, "
                "or move it away and pair again."
            ) from None
        house = cls(layout, config, keys, peers, _moves(layout))
        for name in sorted(house.configured_names & peers.peers.keys()):
            log.warning("%s: [peer.%s] is hidden by a paired peer; rename it", layout.config, name)
        return house

    @property
    def name(self) -> str:
        """What this machine calls itself."""
        if self.config.name:
            return self.config.name
        host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:63].lstrip("._-")
        return host or "hearthgate"

    @property
    def configured_names(self) -> frozenset[str]:
        """Names of the peers that stand in the configuration."""
        return frozenset(peer.name for peer in self.config.peers)

    def save(self, peers: Peers) -> None:
        """Store `peers`, then use them. Raises StorageError; what was known before then stays."""
        self._file.save(peers.to_json())
        self.peers = peers

    def forget(self, peers: Peers) -> bool:
        """Use `peers`, then store them; whether the file changed. Raises StorageError.

        What was taken away from somebody is gone also where that cannot be stored.
        """
        self.peers = peers
        return self._file.save(peers.to_json())

    def copy_peers(self) -> Peers:
        """To change and then `save`."""
        return Peers(tuple(self.peers.peers.values()), tuple(self.peers.invitations.values()))

    def bridge_peer(self, name: str) -> BridgePeer | None:
        """Who `name` is to the bridges."""
        known = self.peers.peers.get(name)
        if known is not None:
            return profiles.bridge_peer(name, known.role, known.grants)
        configured = next((p for p in self.config.peers if p.name == name), None)
        if configured is not None:
            return profiles.bridge_peer(name, configured.role, configured.grants)
        return None

    def date(self) -> WallTime:
        """The time as far as it is known: by the clock, else the latest that has passed."""
        now = time.time()
        if self._time.is_plausible(now):
            return WallTime(now, True)
        return WallTime(max(BUILT, self._time.latest), False)

    def wall(self) -> float | None:
        """Seconds since 1970, None where the clock is not to be trusted."""
        date = self.date()
        return date.seconds if date.is_believed else None

    def note_time(self) -> None:
        """Remember the date over a restart, where it can be believed."""
        now, before = time.time(), self._time.latest
        try:
            self._time.observe(now, disciplined=is_disciplined(now))
        except StorageError as error:
            log.error("%s", error)
        if self._time.latest < before:
            log.warning("NTP says for a day that the date is earlier than known: it is believed")

    def ticket_keys(self) -> tuple[TicketKey, ...]:
        """What a mediation server seals tickets with now; to be asked for again and again."""
        if self._ticket_keys is None:
            from agent.ticket_keys import TicketKeys  # few machines are one

            self._ticket_keys = TicketKeys(self.layout.ticket_keys)
        return self._ticket_keys.at(self.wall())

    def invite(self, name: str, role: str, seconds: int) -> Invitation:
        """A new invitation, stored. Raises InputError, ConfigError, StorageError."""
        mediator = next((m for m in self.config.mediators if m.is_ours), None)
        if mediator is None or mediator.key is None:
            raise ConfigError(
                f"{self.layout.config}: no mediation server of hearthgate's kind is configured; "
                "run `hearthgate setup HOST#KEY` first."
            )
        peers = self.copy_peers()
        if name in peers.peers or name in self.configured_names:
            raise InputError(f'There is a peer "{name}" already; revoke it or take another name.')
        if len(peers.invitations) >= MAX_INVITATIONS:
            raise InputError("Too many invitations are open; wait until some expire.")
        where = MediatorPlace(mediator.host, mediator.port, mediator.key)
        where = self.moves.after(where) or where
        wall = self.wall()
        invitation = Invitation(
            mediator=where.address,
            mediator_key=where.key,
            gateway_mediation=self.keys.mediation.public,
            gateway_identity=self.keys.identity.public,
            name=self.name,
            invited=name,
            role=role,
            expires=int(wall + seconds) if wall is not None else 0,
            seed=os.urandom(16),
        )
        opened = OpenInvitation(
            name=name,
            role=role,
            identity=key_text(invitation.identity.public),
            mediation=key_text(invitation.mediation.public),
            expires=invitation.expires or 2**32 - 1,
            lifetime=seconds,
        )
        peers.invitations[opened.identity] = opened
        self.save(peers)
        return invitation

    def enrol(self, one_time: bytes, data: bytes) -> tuple[bytes, bool]:
        """The answer to N(HG_ENROLL), after it is on disk, and whether anything changed."""
        own = self.keys.identity.public
        enrolment = decode_enrolment(data, one_time, own)
        if enrolment is None or enrolment.identity == own:
            return bytes((EnrolResult.INVALID,)), False
        wall = self.wall()
        peers = self.copy_peers()
        result, peer = peers.enrol(
            key_text(one_time), enrolment, wall, int(wall or 0), self.configured_names
        )
        if peer is None:
            log.warning("an invitation was refused: %s", result.name.lower())
            return bytes((result,)), False
        changed = peers.to_json() != self.peers.to_json()
        if changed:
            try:
                self.save(peers)
            except StorageError as error:
                log.error("%s", error)
                return bytes((EnrolResult.FULL,)), False
            log.info("paired with %s (%s)", peer.name, peer.role)
        return bytes((result,)) + peer.role.encode(), changed

    def expire_invitations(self, running: float) -> bool:
        """Forget invitations that are over; True if there were any."""
        peers = self.copy_peers()
        if not peers.invitations:
            return False
        over = peers.expire(self.wall(), int(running))
        self.peers = peers  # the count goes to disk with the next change, to spare the flash
        if over:
            self._save_or_log(peers)  # they are over in memory, and after a restart at once
        return over

    def set_wanted(self, name: str, wanted: bool) -> None:
        """Remember that a connection is asked for; where nothing can be stored, for this run."""
        known = self.peers.peers.get(name)
        if known is not None and known.wanted != wanted:
            peers = self.copy_peers()
            peers.peers[name] = replace(known, wanted=wanted)
            self.peers = peers
            self._save_or_log(peers)

    def mediators(self) -> list[MediatorEntry]:
        """Everywhere that this machine registers."""
        return profiles.mediators(self.config, self.keys, self.peers, self.moves)

    def set_moved(self, name: str, successor: MediatorPlace | None) -> None:
        """Remember which server the mediator `name` handed us over to, None: to no other.

        Where nothing can be stored, for this run.
        """
        entry = next((e for e in self.mediators() if e.name == name), None)
        moves = self.moves.noted(entry, successor) if entry is not None else self.moves
        if moves != self.moves:
            self.moves = moves
            try:
                self._moves_file.save(moves.to_json())
            except StorageError as error:
                log.error("%s", error)

    def close(self) -> None:
        """The daemon ends: store for how long open invitations have been served."""
        if any(not i.used_by for i in self.peers.invitations.values()):
            self._save_or_log(self.peers)

    def _save_or_log(self, peers: Peers) -> None:
        try:
            self.save(peers)
        except StorageError as error:
            log.error("%s", error)

    def audit(self, record: Mapping[str, Any]) -> None:
        """Append one record. A full disk is logged; the write that it tells of has happened."""
        try:
            self._audit.append(encode_line(record))
        except StorageError as error:
            log.error("the audit log could not be written: %s", error)

    def audit_lines(self, count: int) -> list[dict[str, Any]]:
        """The last `count` records, oldest first."""
        lines = deque(self._audit.lines(), count)
        return [record for line in lines if (record := _record(line)) is not None]


def _moves(layout: Layout) -> Moves:
    """Without the file, or with a damaged one, the configured servers are asked again."""
    try:
        content = storage.JsonState(layout.moves, version=MOVES_VERSION).load()
        return Moves.from_json(dict(content)) if content is not None else NO_MOVES
    except DamagedFileError as error:
        log.error("%s", error)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        log.error("%s: this is no list of mediation servers (%s)", layout.moves, error)
    return NO_MOVES


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # torn by a power cut
        return None
    return record if isinstance(record, dict) else None


def read_config(layout: Layout, file: Path | None = None) -> Config:
    """The configuration; without a file everything is at its default. Raises ConfigError.

    `file` is read instead of the installed one, and has to be there.
    """
    source = file or layout.config

    def read(path: str) -> bytes:
        with (source.parent / path).open("rb") as opened:
            return opened.read(NAMED_OCTETS)

    data = storage.read_file(source, limit=CONFIG_OCTETS)
    if data is None and file is not None:
        raise ConfigError(f"{file}: there is no such file.")
    try:
        text = data.decode() if data is not None else ""
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: this file is not UTF-8 text.") from None
    return load_config(text, str(source), read)


def _mediating(config: Config, given: str, source: str) -> Config:
    entry = config.mediate or MediateConfig(
        address="", anycast=(), local_id=None, proposals=profiles.OUR_IKE, peers=()
    )
    try:
        host, port = split_host(given or entry.address or socket.getfqdn(), 0)
    except ValueError as error:
        raise InputError(
            f"This mediation server needs an address by which others reach it: {error} Give it "
            f"with --address, or as address under [mediate] in {source}."
        ) from None
    port = port or config.port
    if port not in (0, NATT_PORT):
        host = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return replace(config, mediate=replace(entry, address=host))


def _key(path: Path) -> SigningKey:
    _warn_if_shared(path)
    data = storage.read_file(path)
    if data is None:
        key = SigningKey.generate(os.urandom)
        storage.make_folder(path.parent)
        storage.write_file(path, key.pem(), mode=0o600)
        return key
    try:
        return load_private_key(data)
    except ValueError as error:
        raise StorageError(
            f"{path}: this is not a private key ({error}); restore it from a backup "
            "(`hearthgate import-identity`). It is never replaced by itself, as every pairing "
            "hangs on it."
        ) from None


def _warn_if_shared(path: Path) -> None:
    """A key that others may read is used all the same: the board has to stay reachable."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & 0o077:
        log.warning("%s can be read by others: chmod 600 %s", path, path)
