"""Both windows of an IKE SA: requests out one at a time, requests in one after the other.

RFC 7296 §2.1 (retransmission), §2.2 (message IDs), §2.3 with a window of 1. A request that we send
is a `Task` in flight; the rest wait in a queue. A retransmission is the same octets again; the
interval comes from the measured round trip and grows (settings). The response to the last
request of the peer is kept and sent again when the same octets arrive again.
Left out: windows above 1 (SET_WINDOW_SIZE is never sent, and one received changes nothing).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent.ike.fragmentation import Plain
    from agent.ike.sa import IkeSa
    from agent.ike.settings import IkeSettings
    from agent.wire.message import Message
    from agent.wire.payloads import Payload

    # The datagrams of a message, and what it was before where it may have to be cut smaller.
    Sealed = tuple[tuple[bytes, ...], Plain | None]

# Requests that wait for the window, per IKE SA. A mediator relays to a peer at the pace at which it
# answers; more than this in the queue would be stale when it is sent.
MAX_QUEUED: Final = 64
# Message IDs never wrap (§2.2): long before, the IKE SA is rekeyed, and here it ends.
REKEY_MESSAGE_ID: Final = 1 << 31
LAST_MESSAGE_ID: Final = (1 << 32) - 1
# The same request from another address than the peer's is its own after a NAT has moved, or one
# that somebody caught and repeats in the name of a victim: answered as often as a request is sent.
MAX_ELSEWHERE: Final = 8


class Topic(Enum):
    """What a request is about, as far as collisions go (§2.25)."""

    OTHER = auto()
    CHILD = auto()  # creates, rekeys or closes a Child SA
    IKE = auto()  # rekeys the IKE SA


class Task(ABC):
    """An exchange that we initiate. Built when the window is free, so it sees the state of then."""

    __slots__ = ()
    exchange: int
    topic = Topic.OTHER
    # Whether the request goes on with the new IKE SA when this one is replaced under it.
    portable = False
    # Whether the SA ends with this exchange, so that nobody waits long for the answer.
    is_last = False

    @abstractmethod
    def build(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """The payloads of the request; None if there is nothing left to do."""

    def on_response(  # noqa: B027  IKE_SA_INIT is answered before there are keys, elsewhere
        self, sa: IkeSa, message: Message, now: float
    ) -> None:
        """The (decrypted) response. May raise ProtocolError."""

    def on_lost(self, sa: IkeSa, now: float) -> None:  # noqa: B027  most have nothing to undo
        """There will be no response: the IKE SA is gone, or the task was dropped."""


class Outgoing:
    """Our requests: the one in flight and those that wait."""

    __slots__ = (
        "data", "first_sent", "interval", "next_id", "plain", "queue", "sent", "task", "tries",
    )  # fmt: skip

    def __init__(self) -> None:
        self.next_id = 0
        self.queue: list[Task] | None = None
        self.clear()

    def clear(self) -> None:
        """Nothing is in flight any more."""
        self.task: Task | None = None
        self.data: tuple[bytes, ...] = ()  # datagrams: more than one for a message in fragments
        self.plain: Plain | None = None
        self.first_sent = 0.0
        self.sent = 0.0
        self.interval = 0.0
        self.tries = 0

    @property
    def topic(self) -> Topic:
        """What the request in flight is about."""
        return self.task.topic if self.task else Topic.OTHER

    def enqueue(self, task: Task) -> bool:
        """Let `task` wait for the window; False if too many do."""
        if self.queue is None:
            self.queue = []
        if len(self.queue) >= MAX_QUEUED:
            return False
        self.queue.append(task)
        return True

    def enqueue_first(self, task: Task) -> None:
        """Let `task` be the next: it goes on with an exchange that has just been answered."""
        self.queue = [task, *(self.queue or ())]

    def pop(self) -> Task | None:
        """The task whose turn it is."""
        if not self.queue:
            return None
        task = self.queue.pop(0)
        if not self.queue:
            self.queue = None
        return task

    def start(self, task: Task, sealed: Sealed, interval: float, now: float) -> None:
        """`task` is in flight as `sealed`, sent `now` for the first time."""
        self.task = task
        self.data, self.plain = sealed
        self.first_sent = self.sent = now
        self.interval = interval
        self.tries = 1

    def repeat(self, settings: IkeSettings, now: float) -> None:
        """Sent once more; the next time comes later (§2.1: exponentially)."""
        self.sent = now
        self.tries += 1
        self.interval = min(self.interval * settings.back_off, settings.longest_interval)

    def finish(self, now: float) -> float | None:
        """The response is there: free the window.

        Returns the round trip in seconds, None if it is not known which sending was answered.
        """
        rtt = now - self.first_sent if self.tries == 1 else None
        self.clear()
        self.next_id += 1
        return rtt


class Incoming:
    """The peer's requests: which ID is next, and what the last one was answered."""

    __slots__ = ("_fingerprint", "elsewhere", "next_id", "plain", "repeated", "response")

    def __init__(self) -> None:
        self.next_id = 0
        self.response: tuple[bytes, ...] = ()  # datagrams
        self.plain: Plain | None = None
        self.repeated = 0
        self.elsewhere = 0
        self._fingerprint = 0

    def answered(self, fingerprint: int, sealed: Sealed) -> None:
        """The request with this `hash` was answered with `sealed`; the next ID is due.

        64 bits under a key of this process: enough to tell a retransmission, which has the very
        same octets (§2.1; the first fragment stands for all), from anything else.
        """
        self.next_id += 1
        self.response, self.plain = sealed
        self.repeated = 0
        self.elsewhere = 0
        self._fingerprint = fingerprint

    def repeats(self, message_id: int, request: bytes) -> bool:
        """Whether `request` is the last one again."""
        return (
            message_id == self.next_id - 1
            and bool(self.response)
            and hash(request) == self._fingerprint
        )


def smoothed(rtt: float, sample: float) -> float:
    """The round trip estimate after one more sample (RFC 6298 §2, without variance)."""
    return sample if not rtt else rtt + (sample - rtt) / 8


def first_interval(settings: IkeSettings, rtt: float) -> float:
    """Seconds until the first retransmission; `rtt` 0 = not measured yet."""
    if not rtt:
        return settings.first_interval
    return max(settings.floor_interval, settings.rtt_factor * rtt)
