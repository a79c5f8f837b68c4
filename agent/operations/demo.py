"""The main job on one machine: every role in a network namespace of its own, nothing faked but the

controller's temperature. Used by `hearthgate demo`; `tests/interop` runs it too.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent.crypto.auth import key_text
from agent.errors import HearthgateError, UnavailableError
from agent.house import House
from agent.io.local import ControlClient
from agent.layout import Layout
from agent.operations import strongswan
from agent.operations.controller import EXAMPLE_TOML
from agent.operations.lab import Lab, Namespace, TwoNats, check_can_build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

START_SECONDS = 20.0  # for a daemon to answer, on a slow board under load
NEW_SETPOINT = 21.5
TOO_HOT = 80.0
NAME = "cabin"


@dataclass(slots=True)
class Step:
    """One thing that was shown."""

    name: str
    seconds: float
    ok: bool
    text: str = ""


@dataclass(slots=True)
class Result:
    """Everything that `--json` prints."""

    server: str
    steps: list[Step] = field(default_factory=list)
    connect_to_first_echo_s: float | None = None
    read: float | None = None
    written: float | None = None
    read_back: float | None = None
    refused: str = ""
    address: str = ""  # the gateway's inner address; not in the JSON

    @property
    def ok(self) -> bool:
        """Whether all of it worked."""
        return bool(self.steps) and all(step.ok for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """One object."""
        return {
            "server": self.server,
            "steps": [
                {"name": s.name, "seconds": round(s.seconds, 3), "ok": s.ok} for s in self.steps
            ],
            "connect_to_first_echo_s": self.connect_to_first_echo_s,
            "read": self.read,
            "written": self.written,
            "read_back": self.read_back,
            "refused": self.refused,
        }


class StepFailedError(HearthgateError):
    """A step of the demo failed."""


class Demo:
    """Build, show, take down. `tell` gets each step as it is done."""

    def __init__(self, lab: Lab, server: str, tell: Callable[[Step], None]) -> None:
        self.lab = lab
        self.result = Result(server)
        self._tell = tell
        self._net: TwoNats | None = None
        self._mediator = ""

    def run(self) -> None:
        """All steps. Raises StepFailedError at the first that does not work."""
        for name, step in self._steps():
            started = time.monotonic()
            try:
                text = step()
            except HearthgateError as error:
                self._done(Step(name, time.monotonic() - started, False, error.sentence))
                raise StepFailedError(f"{name}: {error.sentence}") from error
            self._done(Step(name, time.monotonic() - started, True, text))

    def _steps(self) -> list[tuple[str, Callable[[], str]]]:
        pairing: list[tuple[str, Callable[[], str]]]
        if self.result.server == "strongswan":
            pairing = [
                ("keys and configuration on both sides", self._configure_by_hand),
                ("mediation server (strongSwan)", self._start_strongswan),
                ("gateway registers", self._start_gateway),
                ("operator registers", self._start_operator),
            ]
        else:
            pairing = [
                ("mediation server", self._start_mediator),
                ("gateway: keys, configuration, registration", self._set_up_gateway),
                ("operator's daemon", self._start_operator),
                ("invite and accept", self._pair),
            ]
        return [
            ("two NAT routers and a public segment", self._build),
            ("heating controller on a pseudo-terminal", self._start_controller),
            *pairing,
            ("connect through both NATs", self._connect),
            ("read the temperature", self._read),
            ("change the setpoint", self._write),
            ("read it back from the controller's own memory", self._read_back),
            ("a write out of limits is refused", self._refuse),
        ]

    def _done(self, step: Step) -> None:
        self.result.steps.append(step)
        self._tell(step)

    # --- the roles ----------------------------------------------------------------------------

    @property
    def net(self) -> TwoNats:
        """The namespaces."""
        assert self._net is not None
        return self._net

    def folder(self, role: str) -> Path:
        """The files of one role."""
        return self.lab.folder / role

    def _build(self) -> str:
        self._net = TwoNats.build(self.lab)
        return "nftables masquerade, everything inbound dropped"

    def _start_controller(self) -> str:
        link, dump = self.lab.folder / "boiler", self.lab.folder / "boiler.json"
        command = [
            sys.executable, "-P", "-m", "agent.operations.controller",
            "--link", str(link), "--dump", str(dump),
        ]  # fmt: skip
        # With --keep it outlives this process: nothing of it may hold our output open.
        with (self.lab.folder / "boiler.log").open("ab") as log:
            child = self.net.gateway.popen(command, stdout=subprocess.PIPE, stderr=log)
        line = _line(child, "the controller")
        self._controller = child
        return f"Modbus RTU at {json.loads(line)['port']}"

    def _start_mediator(self) -> str:
        child = self._daemon(self.net.server, "server", "mediate", "--address", TwoNats.SERVER)
        self._mediator = _line(child, "the mediation server")
        return self._mediator

    def _set_up_gateway(self) -> str:
        self._command(
            self.net.gateway, "gateway", "setup", self._mediator, "--name", NAME, "--no-service"
        )
        config = Layout(self.folder("gateway")).config
        with config.open("a") as file:
            file.write(EXAMPLE_TOML.format(port=self.lab.folder / "boiler"))
        return self._start_gateway()

    def _start_gateway(self) -> str:
        self._daemon(self.net.gateway, "gateway", "run")
        return self._until_registered("gateway")

    def _start_operator(self) -> str:
        self._daemon(self.net.operator, "operator", "run")
        if self.result.server == "strongswan":
            return self._until_registered("operator")
        status = self._until_answering("operator")
        return f"inner address {status['address']}"

    def _pair(self) -> str:
        invite = {"command": "invite", "name": "laptop", "role": "operator", "seconds": 3600}
        line = self.ask("gateway", **invite)["invitation"]
        self.ask("operator", command="accept", invitation=line, name=NAME)
        self._until_registered("operator")
        return f"{line[:24]}… ({len(line)} characters, used once)"

    def _configure_by_hand(self) -> str:
        roles = ("gateway", "operator")
        keys = {role: House.open(Layout(self.folder(role))).keys for role in roles}
        server_key = strongswan.prepare_server(
            self.folder("server"),
            TwoNats.SERVER,
            {role: keys[role].mediation.public for role in roles},
        )
        device = EXAMPLE_TOML.format(port=self.lab.folder / "boiler")
        for role, other in (("gateway", "operator"), ("operator", "gateway")):
            other_key = key_text(keys[other].identity.public)
            text = strongswan.peer_config(role, other, other_key, server_key, TwoNats.SERVER)
            path = Layout(self.folder(role)).config
            path.write_text(text + (device if role == "gateway" else ""))
        return "each side pins the other's public key"

    def _start_strongswan(self) -> str:
        return strongswan.start_server(self.net.server, self.folder("server"))

    # --- the main job -------------------------------------------------------------------------

    def _connect(self) -> str:
        started = time.monotonic()
        answer = self.ask("operator", command="connect", peer=NAME)
        address = self.result.address = answer["address"]
        if not self.net.operator.ping(address, seconds=2.0):
            raise UnavailableError(f"no echo from {address}")
        self.result.connect_to_first_echo_s = round(time.monotonic() - started, 3)
        path = answer["status"]["path"]
        return f"{address} through {path}, first echo after {self.result.connect_to_first_echo_s} s"

    def _read(self) -> str:
        point = self.ask(
            "operator", command="get", peer=NAME, device="boiler", point="flow_temperature"
        )
        self.result.read = point["value"]
        return f"flow temperature {point['value']} {point['unit']}"

    def _write(self) -> str:
        request = {"command": "set", "peer": NAME, "device": "boiler", "point": "setpoint"}
        answer = self.ask("operator", **request, value=NEW_SETPOINT)
        self.result.written = answer["value"]
        return f"setpoint {answer['value']} {answer['unit']}"

    def _read_back(self) -> str:
        dump = self.lab.folder / "boiler.json"
        dump.unlink(missing_ok=True)
        self._controller.send_signal(signal.SIGUSR1)
        _wait(dump.exists, "the controller's memory")
        register = json.loads(dump.read_text())["holding"][0]
        self.result.read_back = register / 10
        if self.result.read_back != NEW_SETPOINT:
            raise UnavailableError(f"holding register 0 is {register}")
        return f"holding register 0 is {register}"

    def _refuse(self) -> str:
        request = {"command": "set", "peer": NAME, "device": "boiler", "point": "setpoint"}
        try:
            self.ask("operator", **request, value=TOO_HOT)
        except HearthgateError as error:
            self.result.refused = error.sentence
            return error.sentence
        raise UnavailableError(f"{TOO_HOT} °C was accepted")

    # --- tools --------------------------------------------------------------------------------

    def ask(self, role: str, /, **request: Any) -> Any:  # noqa: ANN401  # JSON
        """One request to a role's daemon."""
        for line in ControlClient(Layout(self.folder(role)).socket, timeout=90).request(request):
            if line.get("final"):
                if "error" in line:
                    raise UnavailableError(str(line["error"]))
                return line.get("result")
        return None

    def _daemon(self, host: Namespace, role: str, *words: str) -> subprocess.Popen[bytes]:
        folder = self.folder(role)
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-P", "-m", "agent", "--root", str(folder), *words]
        with (folder / "log").open("ab") as log:
            return host.popen(command, stdout=subprocess.PIPE, stderr=log)

    def _command(self, host: Namespace, role: str, *words: str) -> None:
        command = [sys.executable, "-P", "-m", "agent", "--root", str(self.folder(role)), *words]
        host.run(command)

    def _until_answering(self, role: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def answers() -> bool:
            with contextlib.suppress(HearthgateError):
                found.append(self.ask(role, command="status"))
            return bool(found)

        _wait(answers, f"the {role}'s daemon")
        return found[-1]

    def _until_registered(self, role: str) -> str:
        seen: list[dict[str, Any]] = []

        def registered() -> bool:
            seen[:] = self._until_answering(role)["mediators"]
            return any(m["state"] == "registered" for m in seen)

        try:
            _wait(registered, "the registration")
        except UnavailableError:
            why = "no mediator is known"
            if seen:
                why = seen[0]["error"] or f"after {START_SECONDS:.0f} s it is {seen[0]['state']}"
            raise UnavailableError(f"the {role} did not register: {why}") from None
        return f"registered, seen as {seen[0]['reflexive']}"


def demonstrate(server: str, *, keep: bool, tell: Callable[[Step], None]) -> tuple[Result, Lab]:
    """Run it all. With `keep` the laboratory stays; else nothing is left behind."""
    with _terminable():
        check_can_build()
        lab = Lab("demo")
        demo = Demo(lab, server, tell)
        try:
            with contextlib.suppress(StepFailedError):
                demo.run()
            if keep:
                lab.keep()
        finally:
            with _handled(signal.SIG_IGN):  # an impatient second Ctrl-C must not leave half of it
                lab.close()
    return demo.result, lab


def _terminable() -> contextlib.AbstractContextManager[None]:
    """Clean up after SIGTERM and SIGHUP as after Ctrl-C."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    return _handled(stop)


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """`handler` for all signals that end a program politely."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _line(child: subprocess.Popen[bytes], what: str) -> str:
    """The first line that a child prints."""
    assert child.stdout is not None
    data = b""
    deadline = time.monotonic() + START_SECONDS
    while not data.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([child.stdout], [], [], left)[0]:
            raise UnavailableError(f"{what} did not start in time")
        octet = os.read(child.stdout.fileno(), 1)
        if not octet:
            raise UnavailableError(f"{what} ended at once")
        data += octet
    return data.decode().strip()


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise UnavailableError(f"waited in vain for {what}")
        time.sleep(0.02)
