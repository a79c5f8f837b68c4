"""Where the files of a machine are; all of it moves with `--root`. Pure: paths only."""

from __future__ import annotations

from pathlib import Path

from agent.records import record


@record(frozen=True, slots=True)
class Layout:
    """`root` is / on a machine of its own."""

    root: Path = Path("/")

    @property
    def config(self) -> Path:
        """Written by people."""
        return self.root / "etc/hearthgate/hearthgate.toml"

    @property
    def keys(self) -> Path:
        """Private keys, mode 0600."""
        return self.root / "etc/hearthgate/keys"

    @property
    def state(self) -> Path:
        """What survives reboots."""
        return self.root / "var/lib/hearthgate"

    @property
    def run(self) -> Path:
        """Control socket and lock."""
        return self.root / "run/hearthgate"

    @property
    def socket(self) -> Path:
        """Where the daemon listens for commands."""
        return self.run / "control.sock"

    @property
    def identity_key(self) -> Path:
        """End to end; never shown to a mediator."""
        return self.keys / "identity.pem"

    @property
    def mediation_key(self) -> Path:
        """Shown to mediators; its public half is the pseudonym."""
        return self.keys / "mediation.pem"

    @property
    def peers(self) -> Path:
        """Peers and invitations."""
        return self.state / "peers.json"

    @property
    def ticket_keys(self) -> Path:
        """What a mediation server seals its tickets with, mode 0600."""
        return self.state / "ticket-keys.json"

    @property
    def moves(self) -> Path:
        """Which mediation servers handed us over to which."""
        return self.state / "mediators.json"

    @property
    def time(self) -> Path:
        """The latest date that was seen (board.clock)."""
        return self.state / "time.json"

    @property
    def audit(self) -> Path:
        """One JSON line for each write to a device."""
        return self.state / "audit.log"
