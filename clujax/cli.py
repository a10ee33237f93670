"""The command `clujax`: run a config, serve requests, rebuild a report, list what is here, say what this machine can do.

Nothing heavy is imported before a config is known to be good, so a typing slip is answered at once.
"""

import ast
import errno
import importlib
import importlib.metadata
import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from clujax import configuration, errors
from clujax.arguments import build_parser

_PACKAGE = pathlib.Path(__file__).parent
_FRIENDLY = (errors.DataNotFoundError, errors.ConfigError, errors.RequestError, errors.CheckpointError)
_MANY = ("unlearning",)  # systems whose runs many processes can share
_VERSIONS = ("clujax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "matplotlib")


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command.

    Returns:
        0 when it is done, 1 when it found something that is not as it should be (a ledger that does not fit, a refused
        request), 2 when the input was at fault (one message on stderr), 75 when another process of the run is gone (the
        same command in all processes goes on), 130 when interrupted, 143 when told to stop (SIGTERM: its state is saved).
    """
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    overrides = [word for word in rest if word.startswith("--")]
    stray = [word for word in rest if not word.startswith("--")]
    configured = arguments.command in ("run", "serve-requests", "plan")
    if rest and (stray or not configured):
        hint = " Write an override as --key=value." if configured else ""
        parser.error(f"unrecognised: {' '.join(stray or rest)}.{hint}")
    try:
        if arguments.command == "run":
            among = {name: getattr(arguments, name) for name in ("coordinator", "processes", "process")}
            spans = {
                name: getattr(arguments, name) for name in ("devices_per_process", "join_seconds", "heartbeat_seconds")
            }
            return run(arguments.config, arguments.workdir, overrides, among, **spans)
        if arguments.command == "report":
            return report(
                arguments.workdirs,
                markdown=arguments.markdown,
                full=arguments.full,
                leaderboard=arguments.leaderboard,
            )
        if arguments.command == "serve-requests":
            return serve_requests(
                arguments.config, arguments.workdir, arguments.source, follow=arguments.follow, overrides=overrides
            )
        if arguments.command == "plan":
            from clujax import planning

            return planning.plan(
                arguments.config, arguments.topology, arguments.compare, overrides, arguments.out, arguments.only
            )
        if arguments.command == "ledger":
            return ledger(arguments.action, arguments.directory)
        if arguments.command == "list":
            return list_configs(arguments.under)
        return doctor()
    except (Exception, KeyboardInterrupt, errors.Preempted) as error:
        return _explain(arguments.command, error)


def run(
    config_path: str,
    workdir: str,
    overrides: Sequence[str] = (),
    among: Mapping[str, Any] | None = None,
    *,
    devices_per_process: int | None = None,
    join_seconds: int | None = None,
    heartbeat_seconds: int | None = None,
) -> int:
    """Carry out the experiment of a config in `workdir`, then draw its report.

    Args:
        config_path: the config.
        workdir: the run's directory, on a file system that all its processes share.
        overrides: of the config.
        among: which of many processes this is, as `clujax.training.processes.find` takes it.
        devices_per_process: virtual CPU devices of each.
        join_seconds, heartbeat_seconds: how long to wait for the others, and for a sign of life from each.
    """
    config = configuration.load(config_path, overrides)
    system = config.get("system", None)
    systems = _systems()
    if system not in systems:
        known = ", ".join(systems) or "none"
        raise errors.ConfigError(f"config.system is {system!r} in {config_path}; expected one of: {known}.")
    place = pathlib.Path(workdir)
    if place.exists() and not place.is_dir():
        raise errors.ConfigError(f"--workdir {workdir} is a file; name a directory (it is made when missing).")

    from clujax.training import processes

    def carry_out() -> int:
        experiment = importlib.import_module(f"clujax.{system}.experiment")
        experiment.run(config, place)
        if processes.writes() and (place / "result.json").is_file():
            return report([workdir])
        return 0

    ours = processes.find(**among or {})
    if ours is None:
        return carry_out()
    if system not in _MANY:
        raise errors.ConfigError(f"a run of {system!r} has one process; many can share one of: {', '.join(_MANY)}.")

    from clujax.training import watch

    wait, heartbeat = join_seconds or processes.JOIN, heartbeat_seconds or processes.HEARTBEAT

    def joined() -> int:
        processes.join(ours, wait=wait, heartbeat=heartbeat, cpu_devices=devices_per_process)
        processes.check_same(config=configuration.digest(config), **processes.versions())
        return carry_out()

    return watch.watched(joined, lambda error: _explain("run", error), ours, wait, heartbeat)


def report(
    workdirs: Sequence[str], *, markdown: bool = False, full: bool = False, leaderboard: str | None = None
) -> int:
    """Rebuild figures and `report.html` of each run from its result files, and print their tables (merged).

    Args:
        workdirs: directories of finished runs.
        markdown: print the tables as Markdown.
        full: tables with all metrics instead of the headline.
        leaderboard: write one page here that ranks the methods of all runs, and print its path instead of the tables.
    """
    from rich.console import Console

    from clujax import reports

    runs = [reports.read(workdir) for workdir in workdirs]
    # First, since runs that cannot be compared should be refused before any figure is drawn.
    ranking = reports.leaderboard(runs, leaderboard) if leaderboard else None
    pages = [reports.build(each) for each in runs]
    if markdown:
        print(reports.markdown(runs, full=full))
        return 0
    console = Console()
    if ranking is None:
        for table in reports.tables(runs, width=console.width, full=full):
            console.print(table)
    for page in pages:
        console.print(f"report: {page}", soft_wrap=True, highlight=False)
    if ranking:
        console.print(f"leaderboard: {ranking}", soft_wrap=True, highlight=False)
    return 0


def serve_requests(
    config_path: str, workdir: str, source: str, *, follow: bool = False, overrides: Sequence[str] = ()
) -> int:
    """Carry out the requests of a JSONL file or pipe on the deployed network of a config, each exactly once.

    Args:
        config_path: a config of the system "continual".
        workdir: the deployment's directory.
        source: the file, or "-" for standard input.
        follow: wait for more at its end, until SIGINT or SIGTERM.
        overrides: of the config.

    Returns:
        0 when every request stands applied, 1 when some were refused or are missing.
    """
    config = configuration.load(config_path, overrides)
    system = config.get("system", None)
    if system != "continual":
        raise errors.ConfigError(f"config.system is {system!r} in {config_path}; requests are served for 'continual'.")
    from rich.console import Console

    from clujax.continual import base, serve

    stop = serve.Stop()
    lines = serve.lines_of(source, follow=follow, stop=stop)
    with base.deployment(config, pathlib.Path(workdir)) as deployment, stop.listening():
        tally = serve.serve(deployment, lines)
        entries, missing = deployment.entries, deployment.missing
    Console().print(_ledger_table(entries))
    print(", ".join(f"{count} {name}" for name, count in tally._asdict().items()), file=sys.stderr)
    if missing:
        names = ", ".join(repr(entry.id) for entry in missing)
        print(f"in the ledger, but lost from the network until they are sent again: {names}", file=sys.stderr)
    return int(bool(tally.refused or tally.malformed or missing))


def ledger(action: str, directory: str) -> int:
    """Print a deployment's ledger ("show"), or what in it does not fit ("verify")."""
    from rich.console import Console

    from clujax.continual import ledger as ledgers

    if action == "show":
        entries, _, findings = ledgers.read(ledgers.find(directory))
        Console().print(_ledger_table([entry for entry in entries if entry is not None]))
    else:
        findings = ledgers.verify(directory)
    for finding in findings:
        print(finding if finding.fault else f"{finding} (no fault)")
    faults = sum(finding.fault for finding in findings)
    if action == "verify":
        print(f"{directory}: {f'{faults} things do not fit' if faults else 'ledger and checkpoints fit'}")
    return int(faults > 0)


def list_configs(under: str = "configs") -> int:
    """Print every config below a folder with the first line of its docstring, its command and its time."""
    from rich.console import Console
    from rich.table import Table

    root = pathlib.Path(under)
    paths = [
        path for path in sorted(root.rglob("*.py")) if "get_config" in path.read_text() and path.stem != "__init__"
    ]
    if not paths:
        raise errors.ConfigError(
            f"no config below {root}; stand in the repository's root or name a folder with --under."
        )
    console = Console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("config", no_wrap=True)  # to be copied into a command
    table.add_column("what it does")
    table.add_column("time")
    for path in paths:
        lines = (ast.get_docstring(ast.parse(path.read_text())) or "no docstring").splitlines()
        time = next((line.split(":", 1)[1].strip() for line in lines if line.strip().lower().startswith("time:")), "")
        table.add_row(str(path), lines[0], time)
    console.print(table)
    example = paths[0]
    console.print(
        f"\nRun one:  clujax run {shlex.quote(str(example))} --workdir runs/{example.stem}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def doctor() -> int:
    """Print versions, devices, and the data sets found here with the way to get the rest."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"[bold]Python[/] {platform.python_version()} on {platform.system()} {platform.machine()}")
    versions = Table("package", "version", box=None, header_style="bold", pad_edge=False)
    for name in _VERSIONS:
        try:
            versions.add_row(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            versions.add_row(name, f"[red]missing[/]: pip install {name}")
    console.print(versions)

    import jax

    console.print(f"\n[bold]Devices[/] (backend {jax.default_backend()}, {jax.process_count()} process)")
    for device in jax.devices():
        console.print(f"  {device.id}: {device.device_kind}", highlight=False)

    from clujax import data

    found = Table(
        "data set", "training rows", "test rows", "classes", "from", box=None, header_style="bold", pad_edge=False
    )
    missing = {}
    for name in data.KNOWN:
        try:
            held = data.load(name)
        except errors.DataNotFoundError as error:
            missing[name] = str(error)
            continue
        counts = (len(held.train["y"]), len(held.test["y"]), len(held.classes))
        found.add_row(name, *(f"{count:,}" for count in counts), f"{held.source.kind} {held.source.path}")
    console.print("\n[bold]Data found[/]" if found.row_count else "\n[bold]No data found[/]")
    if found.row_count:
        console.print(found)
    if missing:
        console.print("\n[bold]Data not found, and how to get it[/]")
    for name, message in missing.items():
        # The resolver ends its message with the fixes; the places it searched are for someone who needs this set.
        *_, fixes = message.rpartition("To get it:")
        console.print(f"{name}{fixes}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _explain(command: str, error: BaseException) -> int:
    """Print what a user can do about an error, and give the exit code; what is nobody's fault is raised again."""
    configured = command in ("run", "serve-requests")
    if isinstance(error, _FRIENDLY):
        print(f"clujax {command}: {error}", file=sys.stderr)
        return 2
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = error.filename or "the working directory"
        print(
            f"clujax {command}: the disk of {place} is full. Free some space and give the same command "
            "again: it goes on from the last whole checkpoint.",
            file=sys.stderr,
        )
        return 2
    if isinstance(error, errors.Preempted):
        print(f"clujax {command}: {error}", file=sys.stderr)
        return error.CODE
    if isinstance(error, KeyboardInterrupt):
        again = " Give the same command again to go on from there." if configured else ""
        print(f"\nclujax {command}: stopped.{again}", file=sys.stderr)
        return 130
    raise error


def _ledger_table(entries: Sequence) -> Any:
    from rich.markup import escape
    from rich.table import Table

    aware = any(entry.task is not None for entry in entries)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    numbers = ("#", "learn", "forget", "task", "seconds")
    for name in ("#", "id", "status", "learn", "forget", *(["task"] if aware else []), "network", "began", "seconds"):
        table.add_column(name, justify="right" if name in numbers else "left", no_wrap=name != "id")
    table.add_column("measured, or why refused")
    for entry in entries:
        measured = ", ".join(f"{name} {value:.4g}" for name, value in entry.metrics.items())
        counts = [f"{count:,}" if count else "" for count in (entry.learn_count, entry.forget_count)]
        task = ["" if entry.task is None else str(entry.task)] if aware else []
        began = entry.times["began"][:16].replace("T", " ")
        seconds = f"{entry.times['seconds']:.1f}"
        name, status, last = (escape(text) for text in (entry.id, entry.status, measured or entry.reason))
        table.add_row(str(entry.number), name, status, *counts, *task, entry.params_after[:8], began, seconds, last)
    return table


def _systems() -> list[str]:
    # By the files, not by importing: a wrong name must be answered before jax is loaded.
    return sorted(path.parent.name for path in _PACKAGE.glob("*/experiment.py"))


if __name__ == "__main__":
    sys.exit(main())
