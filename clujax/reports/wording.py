"""What a report calls the network that methods are measured to: of one request, and of a stream of requests."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Words(NamedTuple):
    """Names of the reference where a sentence, a heading or a pair of it needs one."""

    reference: str
    short: str
    pair: str


REQUEST = Words("the retrained model", "retrained", "two retrained models")
STREAM = Words("the oracle", "the oracle", "two oracles")


GRAMMAR = (
    "L3 learns task 3; U2 forgets what is left of task 2, U{0,2} the classes 0 and 2, U10% that share of all rows known "
    "so far, drawn at random; a plus sign joins what one request asks for."
)


def is_stream(request: Mapping[str, Any]) -> bool:
    """Whether a record tells of a stream of requests that learn and forget, not of one request to forget."""
    return bool(request.get("stream"))


def of(request: Mapping[str, Any]) -> Words:
    """The words for a record."""
    return STREAM if is_stream(request) else REQUEST


def sizes(request: Mapping[str, Any], parts: Mapping[str, str]) -> list[str]:
    """How much data a record is about, in short phrases.

    Args:
        request: its record.
        parts: for one request, what to call the rows of "forget", "remain" and "test".
    """
    if not is_stream(request):
        known = {part: request.get(f"num_{part}") for part in parts}
        return [f"{known[part]:,} {word}" for part, word in parts.items() if known[part] is not None]
    stream = request["stream"]
    learned, forgotten = (sum(each.get(part) or 0 for each in stream) for part in ("learn", "forget"))
    tests = [f"{request['num_test']:,} test rows"] if request.get("num_test") is not None else []
    many = f"{len(stream)} request{'s' * (len(stream) != 1)}"
    return [many, f"{learned:,} rows learned", f"{forgotten:,} forgotten", *tests]


def asked(entry: Mapping[str, Any]) -> str:
    """What one request of a stream asks for, in words."""
    parts = [("learn", "learns"), ("forget", "forgets")]
    told = [f"{verb} {entry[part]:,} row{'s' * (entry[part] != 1)}" for part, verb in parts if entry.get(part)]
    return " and ".join(told) or "asks for nothing"
