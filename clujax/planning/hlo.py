"""The text of a compiled module, read: computations, shapes, and how often each instruction runs."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OP = re.compile(r"\s*([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](\{[^{}]*\})?")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Array(NamedTuple):
    """One array of a shape: its element type, extents, and the memory space that its layout names (0 is HBM)."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> int:
        """Bytes without the padding of the layout."""
        return math.ceil(math.prod(self.dims) * _bits(self.dtype) / 8)


class Instruction(NamedTuple):
    """One line of a computation; `inside` is what stands in the parentheses, `attributes` what follows them."""

    name: str
    op: str
    shape: str
    operands: tuple[str, ...]
    inside: str
    attributes: str
    root: bool


Computation = dict[str, Instruction]


class Module(NamedTuple):
    """Computations by name, instructions in the order of the text."""

    computations: dict[str, Computation]
    entry: str


class Visit(NamedTuple):
    """An instruction, where it stands, how often one call of the program runs it, and whether inside a fusion."""

    instruction: Instruction
    computation: str
    times: int
    fused: bool


def parse(text: str) -> Module:
    """Read what `compiled.as_text()` gives (CPU, GPU and TPU write the same language).

    Example:
        >>> module = parse('''
        ... ENTRY %main (x: f32[2,3]) -> f32[2,3] {
        ...   %x = f32[2,3]{1,0} parameter(0)
        ...   ROOT %y = f32[2,3]{1,0} negate(%x), metadata={op_name="neg"}
        ... }''')
        >>> module.computations["main"]["y"].op, arrays(module.computations["main"]["y"].shape)[0].bytes
        ('negate', 24)
    """
    computations, entry, current = {}, "", None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (instruction := _instruction(line)):
            current[instruction.name] = instruction
    return Module(computations, entry or next(reversed(computations), ""))


def arrays(shape: str) -> list[Array]:
    """The arrays of a shape, those of a tuple in order."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(shape):
        space = re.search(r"S\((\d+)\)", layout)
        extents = tuple(int(extent.lstrip("<=")) for extent in dims.split(",") if extent)
        found.append(Array(dtype, extents, int(space[1]) if space else 0))
    return found


def size(shape: str) -> int:
    """Bytes of all arrays of a shape, without padding."""
    return sum(array.bytes for array in arrays(shape))


def visits(module: Module) -> Iterator[Visit]:
    """Every instruction that a call of the program runs, the bodies of loops with their trip counts.

    Loops whose count the text does not say run once here (`unknown_loops` names them); of a conditional, every branch
    runs. The scalar computations of reductions are left out.
    """
    yield from _walk(module, module.entry, 1, fused=False)


def unknown_loops(module: Module) -> list[str]:
    """Loops whose trip count cannot be told from the text."""
    return [
        each.instruction.name
        for each in visits(module)
        if each.instruction.op == "while" and trips(module, each.computation, each.instruction) is None
    ]


def trips(module: Module, computation: str, loop: Instruction) -> int | None:
    """How often a while loop runs: what XLA noted, else a counter from a constant up to a constant (as scans have)."""
    noted = _TRIPS.search(loop.attributes)
    if noted:
        return int(noted[1])
    condition = module.computations[re.search(r"condition=%?([\w.\-]+)", loop.attributes)[1]]
    root = next(each for each in condition.values() if each.root)
    if root.op == "fusion":
        inner = module.computations[_CALLED.search(root.attributes)[1]]
        bound = {f"parameter({i})": condition[name] for i, name in enumerate(root.operands)}
        resolve = lambda name: bound.get(f"parameter({inner[name].inside})", inner[name])
        root = next(each for each in inner.values() if each.root)
    else:
        resolve = condition.__getitem__
    if root.op != "compare" or "direction=LT" not in root.attributes:
        return None
    counter, limit = (resolve(name) for name in root.operands)
    if counter.op != "get-tuple-element" or limit.op != "constant":
        return None
    index = int(re.search(r"index=(\d+)", counter.attributes)[1])
    here = module.computations[computation]
    start = here[loop.operands[0]]
    start = here[start.operands[index]] if start.op == "tuple" else start
    while start.op in ("copy", "bitcast", "convert"):
        start = here[start.operands[0]]
    if start.op != "constant":
        return None
    body = module.computations[re.search(r"body=%?([\w.\-]+)", loop.attributes)[1]]
    root = next(each for each in body.values() if each.root)
    step = _raised(module, body, root.operands[index], index) if root.op == "tuple" else None
    if step is None or step[0] != 1 or step[1] < 1:
        return None
    return max(0, math.ceil((int(limit.inside) - int(start.inside)) / step[1]))


def _raised(module: Module, here: Computation, name: str, index: int, bound: tuple = ()) -> tuple[int, int] | None:
    """A value in a loop's body as (a, b) of a·counter + b; the counter is element `index` of what the loop carries.

    A loop that the compiler has unrolled raises it by more than 1. None for what is no sum of the counter and constants.
    """
    value = here[name]
    again = lambda name: _raised(module, here, name, index, bound)
    if value.op == "constant":
        return (0, int(value.inside)) if re.fullmatch(r"-?\d+", value.inside) else None
    if value.op == "parameter":
        return bound[int(value.inside)] if bound else None
    if value.op in ("copy", "bitcast", "convert"):
        return again(value.operands[0])
    if value.op == "add":
        left, right = map(again, value.operands)
        return (left[0] + right[0], left[1] + right[1]) if left and right else None
    source = here[value.operands[0]] if value.op == "get-tuple-element" else value
    place = int(re.search(r"index=(\d+)", value.attributes)[1]) if value.op == "get-tuple-element" else None
    if place is not None and source.op == "parameter" and not bound:
        return (1, 0) if place == index else None
    if source.op == "fusion":
        inner = module.computations[_CALLED.search(source.attributes)[1]]
        root = next(each for each in inner.values() if each.root)
        result = root.name if place is None else root.operands[place]
        return _raised(module, inner, result, index, tuple(map(again, source.operands)) or (None,))
    return None


def called(instruction: Instruction) -> list[str]:
    """Computations that an instruction runs."""
    names = _CALLED.findall(instruction.attributes)
    branches = _BRANCHES.search(instruction.attributes)
    return names + (re.findall(r"[\w.\-]+", branches[1]) if branches else [])


def _walk(module: Module, name: str, times: int, fused: bool) -> Iterator[Visit]:
    for instruction in module.computations[name].values():
        yield Visit(instruction, name, times, fused)
        if instruction.op == "while":
            rounds = trips(module, name, instruction)
            inner, into = times * (1 if rounds is None else rounds), fused
        elif instruction.op in ("fusion", "call", "conditional", "async-start", "custom-call"):
            inner, into = times, fused or instruction.op == "fusion"
        else:
            continue  # reductions, sorts and the collectives call scalar computations only
        for target in called(instruction):
            if target in module.computations:
                yield from _walk(module, target, inner, into)


def _instruction(line: str) -> Instruction | None:
    line = re.sub(r"/\*.*?\*/", "", line)
    name = _NAME.match(line)
    if not name:
        return None
    start = name.end()
    end = _closing(line, start) if line[start] == "(" else line.index(" ", start)
    op = _OP.match(line, end)
    if not op:
        return None
    close = _closing(line, op.end() - 1)
    inside = line[op.end() : close - 1]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name[2], op[1], line[start:end], operands, inside, line[close:], bool(name[1]))


def _closing(line: str, start: int) -> int:
    """The place after the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(line)):
        depth += (line[place] == "(") - (line[place] == ")")
        if not depth:
            return place + 1
    return len(line)


def _bits(dtype: str) -> int:
    digits = re.search(r"\d+", dtype)
    return 8 if dtype == "pred" else int(digits[0]) if digits else 0
