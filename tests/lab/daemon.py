"""Our own daemon in a namespace: `python -m agent run --root DIR`, and commands to it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.crypto.auth import key_text
from agent.io.local import ControlClient
from agent.layout import Layout
from tests.lab.charon import private_pem

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from agent.operations.lab import Namespace

CHECKOUT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 15.0


def public_key(seed: bytes) -> bytes:
    """The raw public key of an Ed25519 seed, 32 octets."""
    return (
        Ed25519PrivateKey.from_private_bytes(seed)
        .public_key()
        .public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    )


def public_text(seed: bytes) -> str:
    """The same as people see it, 43 characters."""
    return key_text(public_key(seed))


class Hearthgate:
    """One machine with our daemon. Keys come from seeds, so that both sides can be configured."""

    def __init__(
        self,
        host: Namespace,
        root: Path,
        config: str,
        *,
        identity: bytes | None = None,
        mediation: bytes | None = None,
    ) -> None:
        self.host = host
        self.layout = Layout(root)
        self._process: subprocess.Popen[bytes] | None = None
        self._console = root / "console"
        for folder in (self.layout.keys, self.layout.state, self.layout.run):
            folder.mkdir(parents=True)
        self.layout.keys.chmod(0o700)
        self.layout.config.write_text(config)
        for path, seed in (
            (self.layout.identity_key, identity),
            (self.layout.mediation_key, mediation),
        ):
            if seed is not None:
                path.write_bytes(private_pem(seed))
                path.chmod(0o600)

    @property
    def pid(self) -> int:
        """The process while it runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def argv(self) -> list[str]:
        """What every command begins with."""
        return [sys.executable, "-P", "-m", "agent", "--root", str(self.layout.root)]

    @property
    def env(self) -> dict[str, str]:
        """The environment that finds this checkout; compiled modules are kept, as installed."""
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "HEARTHGATE_DEBUG": "1"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        return env

    def launch(self, *arguments: str) -> None:
        """Start `run` and wait for nothing."""
        with self._console.open("ab") as console:
            self._process = self.host.popen(
                [*self.argv, "run", *arguments], env=self.env, stdout=console, stderr=console
            )

    def start(self, *arguments: str) -> Hearthgate:
        """Start `run` and wait until it answers; raises with its log if it does not."""
        self.launch(*arguments)
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.status()
                return self
            except Exception as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError(f"the daemon did not start: {error}\n{self.log}") from None
                time.sleep(0.01)

    def stop(self) -> int:
        """SIGTERM, as a service manager does; returns the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(10)

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything it has printed so far."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of the command line, as a person calls it."""
        done = self.host.run([*self.argv, *arguments], env=self.env, check=False, timeout=120)
        if check and done.returncode != 0:
            raise AssertionError(
                f"hearthgate {' '.join(arguments)} → {done.returncode}\n"
                f"{done.stdout}{done.stderr}\nthe daemon's log:\n{self.log[-6000:]}"
            )
        return done

    def json(self, *arguments: str) -> Any:
        """What a command with `--json` prints."""
        return json.loads(self.cli(*arguments, "--json").stdout)

    def ask(self, command: str, **arguments: Any) -> Any:
        """The same over the control socket, without the time a process takes to start."""
        client = ControlClient(self.layout.socket, timeout=120)
        *_, last = client.request({"command": command, **arguments})
        if "error" in last:
            raise AssertionError(f"{command}: {last['error']}\nlog:\n{self.log[-6000:]}")
        return last["result"]

    def status(self) -> dict[str, Any]:
        """What `status --json` shows."""
        answer = self.ask("status")
        assert isinstance(answer, dict)
        return answer

    def wait(
        self, what: str, condition: Callable[[dict[str, Any]], object], seconds: float = 15.0
    ) -> dict[str, Any]:
        """Wait until the status meets `condition`; fails with status and log."""
        deadline = time.monotonic() + seconds
        while not condition(status := self.status()):
            if time.monotonic() > deadline:
                shown = json.dumps(status, indent=1)
                raise AssertionError(f"never {what}:\n{shown}\nlog:\n{self.log[-8000:]}")
            time.sleep(0.02)
        return status

    def wait_registered(self, seconds: float = 15.0) -> None:
        """Until every mediator says registered."""
        self.wait(
            "registered",
            lambda s: s["mediators"] and all(m["state"] == "registered" for m in s["mediators"]),
            seconds,
        )

    def peer(self, name: str) -> dict[str, Any]:
        """The status of one peer."""
        return next(p for p in self.status()["peers"] if p["name"] == name)

    def wait_peer(self, name: str, state: str, seconds: float = 15.0) -> None:
        """Until peer `name` is in `state`."""
        self.wait(
            f"{name} {state}",
            lambda s: any(p["name"] == name and p["state"] == state for p in s["peers"]),
            seconds,
        )
