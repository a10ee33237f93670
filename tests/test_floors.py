"""An import never points up, and one system never imports another."""

import ast
import pathlib

import pytest

import clujax

ROOT = pathlib.Path(clujax.__file__).parent
FLOORS = [
    {"errors", "configuration"},
    {"geometry"},
    {"transforms"},
    {"models", "diffusion", "data", "attacks"},
    {"training"},
    {"adaptation"},
    {"unlearning", "continual", "lora", "soups", "ood", "regression", "t2i", "navigation"},
    {"reports", "planning"},
    {"cli", "arguments"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
SYSTEMS = FLOORS[6]


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """Modules of clujax that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            names = [f"{node.module}.{a.name}" if node.module == "clujax" else node.module for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "clujax" and len(parts) > 1:
                yield parts[1]


FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem not in {"__init__", "__main__"})


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    room = room_of(path)
    assert room in LEVEL, f"{room} stands on no floor: add it to FLOORS"
    for target in imports(path):
        if target in {room, "__version__"}:
            continue
        assert LEVEL[target] <= LEVEL[room], f"{path.name}: {room} imports {target}, which is above it"
        assert not (room in SYSTEMS and target in SYSTEMS), f"{path.name}: system {room} imports system {target}"


def test_scikit_learn_is_no_part_of_a_measurement():
    """It is the reference in tests; its data sets are found without importing it.

    Two files of regression need it, and are imported only when asked for: its estimators' base classes, and a baseline.
    """
    allowed = {ROOT / "regression" / name for name in ("estimators.py", "baselines.py")}
    for path in sorted(set(FILES) - allowed):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            )
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not any(name.split(".")[0] == "sklearn" for name in names), f"{path} imports scikit-learn"


def test_the_walker_sees_imports(tmp_path):
    """Guard the guard: a nested import in a function is found."""
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from clujax.unlearning import sfron\n    import clujax.cli\n")
    assert list(imports(file)) == ["unlearning", "cli"]


def test_geometry_is_importable_alone():
    """The ground floor needs jax, numpy and lineax only."""
    allowed = {"jax", "numpy", "lineax", "jaxtyping", "clujax", "typing", "collections", "functools", "math"}
    allowed |= {"operator", "itertools", "warnings", "zlib", "hashlib", "dataclasses", "re"}
    for path in (ROOT / "geometry").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots = {node.module.split(".")[0]}
            else:
                continue
            assert roots <= allowed, f"{path.name} imports {roots - allowed}"
