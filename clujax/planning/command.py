"""`clujax plan`: the steps of a config compiled for slices that are not here, tabulated, drawn and written."""

import importlib
import importlib.metadata
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

import clujax
from clujax import configuration
from clujax.errors import ConfigError
from clujax.planning import figure, tables, topology
from clujax.planning.analysis import StepPlan, analyse
from clujax.training import Outline, lower, workdir

_PACKAGE = pathlib.Path(clujax.__file__).parent
_ALL_DATA = (("data", -1),)
ASSUMED = (
    "Times are lower bounds: data-sheet peaks, no latency, bfloat16 passes; 'in turn' is the sum of computing, memory and "
    "network, the rest lets all three overlap."
)


def plan(
    config_path: str,
    on: str,
    compare: Sequence[str] = (),
    overrides: Sequence[str] = (),
    out: str | None = None,
    only: Sequence[str] | None = None,
) -> int:
    """Compile every step that a config would run and say what each needs; nothing is trained.

    Args:
        config_path: a config whose system has outlines.
        on: the topology, see `topology.parse`.
        compare: further topologies (for this config) and config files (on this topology).
        overrides: of every config.
        out: a directory for `plan.json` and `plan.png`.
        only: names of steps (`pretrain`, `sfron/forget`); all by default.

    Returns:
        0 when every step fits its chips, 1 when one does not.

    Raises:
        ConfigError: the config, a topology or the mesh is at fault, or the TPU compiler is missing.
    """
    if out and pathlib.Path(out).exists() and not pathlib.Path(out).is_dir():
        raise ConfigError(f"--out {out} is a file; name a directory (it is made when missing).")
    first = topology.parse(on)
    others = [(each, first) if each.endswith(".py") else (config_path, topology.parse(each)) for each in compare]
    cases = list(dict.fromkeys([(config_path, first), *others]))
    configs = {path: configuration.load(path, overrides) for path, _ in cases}
    for path, config in configs.items():
        _check_system(path, config)
    topology.prepare([where for _, where in cases])
    # All that can be wrong is found before the first step is compiled.
    steps = [(path, where, *step) for path, where in cases for step in _steps(configs[path], where, only)]
    plans = []
    for number, (path, where, mesh, outline, lowered) in enumerate(steps, 1):
        name = outline.name if len(configs) == 1 else f"{pathlib.Path(path).stem}: {outline.name}"
        with Console(stderr=True).status(f"compiling {name} for {where} ({number} of {len(steps)})"):
            plans.append(analyse(outline._replace(name=name), mesh, where, lowered))
    console = Console()
    show(plans, console)
    if out:
        plain = {path: json.loads(configuration.to_json(config)) for path, config in configs.items()}
        for path in write(plans, out, plain):
            console.print(f"wrote {path}", soft_wrap=True, highlight=False)
    return int(not all(each.fits for each in plans))


def show(plans: Sequence[StepPlan], console: Console) -> None:
    """Print the tables, and for each step that does not fit what would help."""
    console.print(tables.headline(plans))
    for title, table in (("What the chips send", tables.collectives(plans)), ("More slices", tables.scaling(plans))):
        if table.row_count:
            console.print(f"\n[bold]{title}[/]")
            console.print(table)
    for each in plans:
        if not each.fits:
            where, over = f"a chip of {each.topology}", tables.amount(each.memory.over)
            helps = "Estimates of what would help:" if each.advice else "No single change here would make it fit."
            console.print(f"\n[bold red]{each.name} does not fit[/] {where}, by {over}. {helps}", highlight=False)
        for change, total, fits in each.advice:
            says = "fits" if fits else "still too large"
            console.print(f"  {change}: {tables.amount(total)}, {says}", highlight=False)
        for note in each.notes:
            console.print(f"{each.name}: {note}", highlight=False)
    if any(each.times for each in plans):
        console.print(f"\n{ASSUMED}", highlight=False)


def write(plans: Sequence[StepPlan], out: str | pathlib.Path, configs: dict[str, Any]) -> list[pathlib.Path]:
    """Write `plan.json` and `plan.png`, each whole or not at all."""
    folder = pathlib.Path(out)
    try:
        compiler = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        compiler = None
    made = workdir.environment() | {"libtpu": compiler}
    workdir.write_json(
        folder / "plan.json", {"made": made, "configs": configs, "steps": [_plain(each) for each in plans]}
    )
    workdir.write_bytes(folder / "plan.png", figure.png(plans))
    return [folder / "plan.json", folder / "plan.png"]


def _plain(value: Any) -> Any:
    """NamedTuples as JSON objects, with the quantities that are derived from their fields; what is unknown is null."""
    if hasattr(value, "_asdict"):
        kind = type(value)
        derived = [name for name in dir(kind) if isinstance(getattr(kind, name), property)]
        return _plain(value._asdict() | {name: getattr(value, name) for name in derived})
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _steps(
    config: ConfigDict, where: topology.Topology, only: Sequence[str] | None
) -> list[tuple[Mesh, Outline, jax.stages.Lowered]]:
    mesh = topology.mesh(config.get("mesh") or _ALL_DATA, topology.devices(where))
    outlines = importlib.import_module(f"clujax.{config.system}.outline").outlines(config, mesh)
    known = [each.name for each in outlines]
    if unknown := set(only or ()) - set(known):
        raise ConfigError(f"--only names {', '.join(sorted(unknown))}; the steps are: {', '.join(known)}.")
    outlines = [each for each in outlines if not only or each.name in only]
    # A batch or a rule that does not fit the mesh is refused by lowering.
    return [(mesh, each, lower(each)) for each in outlines]


def _check_system(path: str, config: ConfigDict) -> None:
    planned = sorted(
        each.parent.name for each in _PACKAGE.glob("*/outline.py") if (each.parent / "experiment.py").exists()
    )
    system = config.get("system", None)
    if system not in planned:
        known = ", ".join(planned) or "none yet"
        raise ConfigError(
            f"config.system is {system!r} in {path}; the steps that can be planned are those of: {known}."
        )
