"""A run among others, watched from outside: jax ends a process whose peers are gone with SIGABRT, which says too little.

The work is done in a forked child; the parent passes on what the child says on stderr and, when the runtime has ended it,
says in one message what happened and what to do. Ends in bounded time: the heartbeat, and a few seconds.
"""

import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

from clujax.errors import ConfigError, Preempted
from clujax.training.processes import Place

GONE = 75  # EX_TEMPFAIL: another process is gone; the same command, given again in all processes, goes on
MARGIN = 10  # seconds beyond the heartbeat in which the runtime names the process that is gone
AGAIN = "Give the same command again in all processes: the run goes on from its last whole checkpoint."
_TAIL = 1 << 16
_BROKEN = ("Gloo", "NCCL", "coordination service", "CoordinationService", "Barrier timed out", "Socket closed")


def watched(work: Callable[[], int], explain: Callable[[BaseException], int], place: Place, wait: int, heartbeat: int):
    """Do `work`, which joins at `place`, and give its exit code; it returns in a child, and in the parent after that.

    Args:
        work: the run; 0 when done.
        explain: `explain(error) -> exit code`, prints the error; raises what it does not know.
        place: of this process.
        wait, heartbeat: seconds, those that `work` joins with.

    Returns:
        The exit code: that of `work` or `explain`, `GONE` when another process is gone or never came, and 128 + n when
        signal n ended the work.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    (heard, says), (life, held) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(heard)
        os.close(held)
        os.dup2(says, sys.stderr.fileno())
        os.close(says)
        threading.Thread(target=_die_with_parent, args=(life,), daemon=True).start()
        return _work(work, explain, place, heartbeat)
    os.close(says)
    os.close(life)
    # A terminal interrupts both; what is sent to the parent alone is meant for the run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    tail = bytearray()
    reader = threading.Thread(target=_pass_on, args=(heard, tail), daemon=True)
    reader.start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    reader.join(2)  # not for ever: the child's own children may hold the pipe
    if code >= 0:
        return code
    reason, code = _reason(-code, tail.decode(errors="replace"), place, wait, heartbeat)
    print(f"clujax run: {reason} {AGAIN}", file=sys.stderr, flush=True)
    return code


def _work(work, explain, place, heartbeat):
    """The child: a failure leaves at once, since a proper exit would wait for processes that wait for this one."""
    try:
        code = work()
    except BaseException as error:
        if _lost(error):
            first = str(error).rpartition(": ")[2].splitlines()[0][:200]
            print(f"the connection to another process broke ({first}); hearing which one is gone ...", file=sys.stderr)
            sys.stderr.flush()
            time.sleep(heartbeat + MARGIN)  # the runtime ends this process here as soon as it knows
            who = f"process {place.process} of {place.processes} lost the connection to another one."
            print(f"clujax run: {who} {AGAIN}", file=sys.stderr)
            code = GONE
        else:
            try:
                code = explain(error)
            except BaseException:
                traceback.print_exc()
                code = 1
    if code and code != Preempted.CODE:  # all were told to stop, and leave together
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _lost(error):
    """Whether an error, or what it came from, is that of a connection between processes."""
    while error is not None and not isinstance(error, ConfigError):
        if any(word in str(error) for word in _BROKEN):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(number, said, place, wait, heartbeat):
    """In words, why signal `number` ended the child, and the exit code."""
    me = f"process {place.process} of {place.processes}"
    silent = re.findall(r"stopped sending heartbeats\):\s*((?:\d+\s+)+)", said)
    if number == signal.SIGABRT and "RegisterTask" in said and not silent:
        if place.process:
            return (
                f"{me} could not reach the coordinator at {place.coordinator} within {wait} s. Check that process 0 "
                "runs, that this host resolves and reaches that address, that no firewall or proxy closes the port, "
                "and that no other process has this number.",
                GONE,
            )
        return (
            f"not all {place.processes} processes came to {place.coordinator} within {wait} s. Start all of them.",
            GONE,
        )
    if number == signal.SIGABRT and silent:
        gone = ", ".join(silent[-1].split())
        return f"process {gone} gave no sign of life for {heartbeat} s, so {me} stopped too.", GONE
    if number == signal.SIGABRT and ("coordination service" in said or "CoordinationService" in said):
        if place.process and ("leader task" in said or "Socket closed" in said):
            return f"process 0, the coordinator at {place.coordinator}, is gone, so {me} stopped too.", GONE
        return f"another process is gone, so {me} stopped too.", GONE
    name = signal.Signals(number).name
    hint = " (out of memory, or by hand)" if number == signal.SIGKILL else ""
    return f"{me} was ended by {name}{hint}.", 128 + number


def _pass_on(source, tail):
    while chunk := os.read(source, 1 << 16):
        os.write(2, chunk)
        tail += chunk
        del tail[:-_TAIL]


def _die_with_parent(life):
    os.read(life, 1)  # ends when the parent does, however
    os._exit(1)
