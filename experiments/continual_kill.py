"""A deployment killed with SIGKILL at random moments of a stream, against one that was left alone.

Command: python experiments/continual_kill.py CONFIG --from requests.jsonl [--kills 20] [--workdir runs/continual_kill]
         [--write docs/results/continual_kill.md] [--key=value ...]
Time:    about (2 + kills / 3) times what the stream takes, and a start of the process for each kill
Result:  every killed run ends with the ledger (but for times) and the parameters of the undisturbed one, and verifies

Three kills of four strike at a time drawn at random, from the start of the process on; the fourth waits, after such a time,
until a request's checkpoint is being written. With --command, any other command is killed: {workdir} and {requests} in it
are filled in.
"""

import argparse
import contextlib
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
from typing import NamedTuple

from clujax.continual import ledger
from clujax.training.checkpoint import committed


class Calm(NamedTuple):
    """The undisturbed run: its entries, the seconds until it served, and its seconds a request."""

    entries: list
    start: float
    request: float


class Kill(NamedTuple):
    """One kill: in which run, how long after the start of the process, where it struck, entries in the ledger then."""

    run: int
    seconds: float
    where: str
    entries: int


class Server:
    """The command on a directory; `serving` is set once it says that it serves."""

    def __init__(self, command: list[str], log: pathlib.Path):
        self.began, self.serving, self._log = time.monotonic(), threading.Event(), log
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with self._log.open("a") as log:
            for line in self.process.stderr:
                log.write(line)
                if ": serving; " in line:
                    self.serving.set()

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def running(self) -> bool:
        return self.process.poll() is None

    def finish(self) -> None:
        """Wait for its end, which must be a good one."""
        code = self.process.wait()
        self._reader.join()
        if code not in (0, 1):
            sys.exit(f"the command ended with status {code}:\n{''.join(self._log.read_text()[-2000:])}")

    def kill(self) -> bool:
        """Kill it; whether it was still running."""
        self.process.send_signal(signal.SIGKILL)
        code = self.process.wait()
        self._reader.join()
        return code == -signal.SIGKILL


def whole_entries(directory: pathlib.Path) -> list:
    """The entries on disk, and none where there is no ledger yet."""
    with contextlib.suppress(FileNotFoundError):
        return ledger.read(directory / ledger.LEDGER)[0]
    return []


def writing(directory: pathlib.Path) -> bool:
    """Whether half a checkpoint is there."""
    return any((directory / ledger.CHECKPOINTS).glob("*.orbax-checkpoint-tmp*"))


def where(directory: pathlib.Path, served: bool) -> str:
    """Where a kill struck, from what it left; the first that applies."""
    if not (directory / ledger.LEDGER).exists():
        return "before there was a ledger"
    if not served:  # what lies there may be from the kill before
        return "starting"
    entries, torn, _ = ledger.read(directory / ledger.LEDGER)
    steps = committed(directory / ledger.CHECKPOINTS)
    made = len(ledger.changes(entries)) - 1
    folders = list((directory / "requests").glob("*"))
    if torn:
        return "writing the ledger"
    if writing(directory):
        return "writing a request's checkpoint"
    if steps and steps[-1] > made:
        return "between checkpoint and ledger"
    if any((directory / "requests").glob("*/*/*.orbax-checkpoint-tmp*")):
        return "writing a checkpoint inside a request"
    if any(int(folder.name.partition("-")[0]) > made for folder in folders):
        return f"carrying out request {made + 1}"
    return "clearing up after a request" if folders else "between requests"


def until_serving(server: Server) -> None:
    """Wait until it serves, or ends before that."""
    while server.running() and not server.serving.wait(0.01):
        pass


def undisturbed(command: list[str], directory: pathlib.Path) -> Calm:
    server = Server(command, directory.parent / "calm.log")
    until_serving(server)
    start = server.seconds()
    server.finish()
    entries = whole_entries(directory)
    return Calm(entries, start, (server.seconds() - start) / max(len(entries) - 1, 1))


def strike(server: Server, directory: pathlib.Path, draw: random.Random, calm: Calm, aimed: bool) -> bool:
    """Kill the server at a drawn moment; whether it was still running then."""
    if aimed or draw.random() < 0.8:
        until_serving(server)
        delay = draw.uniform(0, 2 * calm.request)
    else:
        delay = draw.uniform(0, calm.start)
    time.sleep(delay)
    while aimed and server.running() and not writing(directory):
        time.sleep(0.0005)
    return server.kill()


def fits(calm: Calm, directory: pathlib.Path) -> list[str]:
    """What is not as in the undisturbed run."""
    entries = whole_entries(directory)
    found = [str(finding) for finding in ledger.verify(directory) if finding.fault]
    if [entry.content for entry in entries] != [entry.content for entry in calm.entries]:
        found.append("its ledger is another one")
    if entries[-1].params_after != calm.entries[-1].params_after:
        found.append("its parameters are others")
    return found


def main() -> None:
    """Kill, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", help="a config of the system continual")
    parser.add_argument("--from", dest="requests", type=pathlib.Path, default="", help="the requests, a JSONL file")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/continual_kill"))
    parser.add_argument("--command", help="in place of `clujax serve-requests`, with {workdir} and {requests}")
    parser.add_argument("--write", type=pathlib.Path, help="a Markdown file for the table")
    options, overrides = parser.parse_known_args()
    if not (options.config or options.command):
        parser.error("name a config, or give a --command")
    if options.workdir.exists():
        parser.error(f"{options.workdir} is there already; give another --workdir or remove it")
    options.workdir.mkdir(parents=True)

    def command(directory: pathlib.Path) -> list[str]:
        if options.command:
            return shlex.split(options.command.format(workdir=directory, requests=options.requests))
        serve = [sys.executable, "-m", "clujax.cli", "serve-requests", options.config, "--workdir", str(directory)]
        return [*serve, "--from", str(options.requests), *overrides]

    draw = random.Random(options.seed)
    calm = undisturbed(command(options.workdir / "calm"), options.workdir / "calm")
    kills, ends = [], []
    while len(kills) < options.kills:
        run = len(ends) + 1
        directory, log = options.workdir / f"killed-{run}", options.workdir / f"killed-{run}.log"
        while len(kills) < options.kills and len(whole_entries(directory)) < len(calm.entries):
            server = Server(command(directory), log)
            if strike(server, directory, draw, calm, aimed=len(kills) % 4 == 3):
                struck = where(directory, server.serving.is_set())
                kills.append(Kill(run, server.seconds(), struck, len(whole_entries(directory))))
                print(f"kill {len(kills)}: {struck}", file=sys.stderr)
            else:
                server.finish()  # by itself
        Server(command(directory), log).finish()
        ends.append(fits(calm, directory))
    text = report(calm, kills, ends)
    print(text)
    if options.write:
        options.write.write_text(text)
    sys.exit(int(any(ends)))


def report(calm: Calm, kills: list[Kill], ends: list[list[str]]) -> str:
    """The result as Markdown."""
    counts = {status: sum(entry.status == status for entry in calm.entries) for status in ("applied", "refused")}
    last = calm.entries[-1]
    lines = [
        "# Kills at random moments",
        "",
        f"{len(kills)} kills with SIGKILL in {len(ends)} runs of a stream of {len(calm.entries) - 1} requests "
        f"({counts['applied']} applied, {counts['refused']} refused; {calm.request:.1f} s a request after a start of "
        f"{calm.start:.1f} s). Undisturbed, the ledger ends with content `{last.content[:16]}` and parameters "
        f"`{last.params_after[:16]}`.",
        "",
        "| run | kills | ledger and parameters as undisturbed | `clujax ledger verify` |",
        "|---|---|---|---|",
    ]
    for run, end in enumerate(ends, 1):
        count = sum(kill.run == run for kill in kills)
        lines.append(f"| {run} | {count} | {'; '.join(end) or 'yes'} | {'see left' if end else 'fits'} |")
    lines += ["", "| kill | run | seconds after start | struck while | lines in the ledger |", "|---|---|---|---|---|"]
    for number, kill in enumerate(kills, 1):
        lines.append(f"| {number} | {kill.run} | {kill.seconds:.2f} | {kill.where} | {kill.entries} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
