import jax
import jax.numpy as jnp
import pytest

from clujax.planning import hlo

LOOP = """HloModule m

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4]{0} get-tuple-element(%p), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %y = f32[4]{0} negate(%x), metadata={op_name="a (b) {c} = d"}
  ROOT %t = (s32[], f32[4]{0}) tuple(%next, %y)
}

%condition (p.1: (s32[], f32[4])) -> pred[] {
  %p.1 = (s32[], f32[4]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %n = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[] compare(%i.1, %n), direction=LT
}

ENTRY %main (x.0: f32[4]) -> f32[4] {
  %x.0 = f32[4]{0} parameter(0)
  %zero = s32[] constant(START)
  %copied = s32[] copy(%zero)
  %init = (s32[], f32[4]{0}, /*index=2*/f32[2,2]{1,0:T(8,128)(2,1)S(1)}) tuple(%copied, %x.0)
  %loop = (s32[], f32[4]{0}) while(%init), condition=%condition, body=%body NOTED
  ROOT %out = f32[4]{0} get-tuple-element(%loop), index=1
}
"""


def program(start="0", noted=""):
    return hlo.parse(LOOP.replace("START", start).replace(" NOTED", noted))


def times_of(module, op):
    return [each.times for each in hlo.visits(module) if each.instruction.op == op]


def test_a_loop_counts_from_its_first_value_to_its_bound():
    assert times_of(program(), "negate") == [7]
    assert times_of(program(start="3"), "negate") == [4]


ONE = "%next = s32[] add(%i, %one)"


@pytest.mark.parametrize(
    ("raised", "times"),
    [
        ("%half = s32[] add(%i, %one)\n  %next = s32[] add(%half, %one)", 4),  # two rounds in one: 0, 2, 4, 6
        ("%three = s32[] constant(3)\n  %copied.1 = s32[] copy(%i)\n  %next = s32[] add(%three, %copied.1)", 3),
        ("%next = s32[] fusion(%one, %i), kind=kLoop, calls=%twice", 4),
        ("%next = s32[] multiply(%i, %one)", None),
        ("%next = s32[] copy(%i)", None),
    ],
)
def test_a_loop_that_is_unrolled_counts_its_rounds(raised, times):
    twice = """%twice (a: s32[], b: s32[]) -> s32[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  %once = s32[] add(%b, %a)
  ROOT %sum = s32[] add(%once, %a)
}

%body"""
    module = hlo.parse(LOOP.replace("START", "0").replace(" NOTED", "").replace(ONE, raised).replace("%body", twice, 1))
    assert times_of(module, "negate") == [times or 1]
    assert hlo.unknown_loops(module) == ([] if times else ["loop"])


def test_a_noted_trip_count_comes_first():
    noted = ', backend_config={"known_init_step":{"init":"0"},"known_trip_count":{"n":"12"}}'
    assert times_of(program(noted=noted), "negate") == [12]


def test_a_loop_of_unknown_length_runs_once_and_is_named():
    module = hlo.parse(LOOP.replace("constant(START)", "parameter(1)").replace(" NOTED", ""))
    assert times_of(module, "negate") == [1]
    assert hlo.unknown_loops(module) == ["loop"]
    assert hlo.unknown_loops(program()) == []


def test_shapes_have_types_extents_and_memory_spaces():
    tuple_shape = program().computations["main"]["init"].shape
    assert hlo.arrays(tuple_shape) == [("s32", (), 0), ("f32", (4,), 0), ("f32", (2, 2), 1)]
    assert hlo.size(tuple_shape) == 4 + 16 + 16


@pytest.mark.parametrize(
    ("dtype", "size"), [("pred", 3), ("bf16", 6), ("f8e4m3fn", 3), ("c64", 24), ("s4", 2), ("token", 0)]
)
def test_element_types_have_their_sizes(dtype, size):
    assert hlo.size(f"{dtype}[3]{{0}}") == size


def test_text_in_metadata_is_no_instruction():
    assert list(program().computations["body"]) == ["p", "i", "x", "one", "next", "y", "t"]


def test_every_branch_of_a_conditional_runs():
    def f(x, flag):
        return jax.lax.cond(flag, lambda v: v @ v, lambda v: v.T @ v @ v, x)

    text = jax.jit(f).lower(jnp.ones((16, 16)), True).compile().as_text()
    assert len(times_of(hlo.parse(text), "dot")) in (2, 3)  # XLA may share a product


def test_nested_scans_multiply():
    def f(x):
        inner = lambda h, _: (jnp.tanh(h @ h), None)
        outer = lambda h, _: jax.lax.scan(inner, h, None, length=3)
        return jax.lax.scan(outer, x, None, length=5)[0]

    module = hlo.parse(jax.jit(f).lower(jnp.ones((8, 8))).compile().as_text())
    assert sum(times_of(module, "dot")) == 15
