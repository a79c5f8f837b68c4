"""DER that is well-formed and wrong: elements left out, repeated, exchanged, with right lengths."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.wire.der import encode_element, read_elements
from agent.wire.errors import WireError
from tests.fuzz.mutate import mutated

if TYPE_CHECKING:
    import random

_TAGS = (0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x13, 0x16, 0x17, 0x18, 0x30, 0x31, 0x80, 0xA0)
_CONSTRUCTED = 0x20
_MOST = 60000  # more than this is no element here


@dataclass
class Node:
    """An element; `parts` are those in it, else there is `content`."""

    tag: int
    content: bytes = b""
    parts: list[Node] = field(default_factory=list)

    def encode(self) -> bytes:
        """With the lengths that are due."""
        inner = b"".join(part.encode() for part in self.parts) or self.content
        return encode_element(self.tag, inner[:_MOST])

    def all(self) -> list[Node]:
        """This one and everything below."""
        return [self, *(node for part in self.parts for node in part.all())]


def tree(octets: bytes) -> Node:
    """Of one element, with what octet strings (extensions) hold. Raises WireError."""
    (element,) = read_elements(octets)
    node = Node(element.tag, element.content)
    if element.tag & _CONSTRUCTED or element.tag == 0x04:
        try:
            node.parts = [tree(part.octets) for part in read_elements(element.content)]
        except (WireError, ValueError):
            node.parts = []
    return node


def altered(source: random.Random, octets: bytes, *, times: int = 3) -> bytes:
    """`octets`, which are DER, with one to `times` changes."""
    root = tree(octets)
    for _ in range(source.randrange(1, times + 1)):
        nodes = root.all()
        node, other = source.choice(nodes), source.choice(nodes)
        match source.randrange(8):
            case 0:
                node.content, node.parts = b"", []
            case 1 if node.parts:
                node.parts.pop(source.randrange(len(node.parts)))
            case 2 if node.parts:
                node.parts *= source.choice((2, 2, 2, 70))
            case 3 if node.parts:
                source.shuffle(node.parts)
            case 4:
                node.tag = source.choice(_TAGS)
            case 5 if not node.parts:
                node.content = mutated(source, node.content, most=4000)
            case 6 if node not in other.all():
                node.content, node.parts = other.content, tree(other.encode()).parts
            case _:  # one thing inside another, over and over
                inner = tree(node.encode())
                for _ in range(source.choice((1, 1, 60))):
                    inner = Node(0x30, b"", [inner])
                node.tag, node.content, node.parts = inner.tag, b"", inner.parts
    return root.encode()
