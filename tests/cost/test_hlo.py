"""What a compiled program sends and moves is read from its text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pyramid_jax.cost import arrays, chips, estimate, hlo
from pyramid_jax.cost.compile import exhausted
from pyramid_jax.cost.network import Network


def compiled(f, *args):
  return hlo.Module(jax.jit(f).lower(*args).compile().as_text())


@pytest.fixture(scope="module")
def mesh():
  return jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)


def test_collectives_in_a_loop_count_as_often_as_it_runs(mesh):
  spec = PartitionSpec("b")

  def body(x):
    one = lambda x, _: (jax.lax.psum(x, "b") / 4, None)
    return jax.lax.scan(one, x, length=6)[0]

  f = jax.shard_map(
    body, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
  )
  (found,) = compiled(f, jnp.ones((4, 256))).collectives()
  size = 6 * 256 * 4
  assert found == (
    "all-reduce",
    4,
    6.0,
    size,
    2 * size * 3 / 4,
    False,
    1.0,
    1.0,
  )


def test_gathering_what_is_split_is_an_all_gather(mesh):
  place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))
  x = jax.device_put(jnp.ones((8, 128)), place("b"))
  f = lambda x: jax.lax.with_sharding_constraint(2 * x, place())
  (found,) = compiled(f, x).collectives()
  size = 8 * 128 * 4
  assert found == ("all-gather", 4, 1.0, size, size * 3 / 4, False, 1.0, 1.0)


def test_traffic_counts_a_loops_body_as_often_as_it_runs():
  step = lambda n: compiled(
    lambda x: jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, length=n)[0],
    jnp.ones((64, 64)),
  ).traffic()
  square = 64 * 64 * 4
  each = (step(20) - step(10)) / 10
  # read twice and written by the product, read and written by the sine; a
  # copy of the carry is the compiler's choice
  assert 3 * square <= each <= 8 * square


def test_a_loop_reads_of_stacked_weights_a_layer_at_a_time():
  w = jnp.ones((50, 64, 64))
  f = lambda x, w: jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]
  traffic = compiled(f, jnp.ones((64, 64)), w).traffic()
  assert traffic < 12 * w.nbytes  # not 50 times the stack


def test_a_fusion_moves_the_parts_that_fusions_in_it_slice_and_write():
  module = hlo.Module("""
%inner (p: bf16[9,64,8], i: s32[]) -> bf16[64,8] {
  %p = bf16[9,64,8]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[] parameter(1)
  %part = bf16[1,64,8]{2,1,0} dynamic-slice(%p, %i), dynamic_slice_sizes={1}
  ROOT %view = bf16[64,8]{1,0} bitcast(%part)
}
%outer (s: bf16[9,64,8], t: f32[9,64,8], i: s32[]) -> (f32[9,64,8], f32[64,8]) {
  %s = bf16[9,64,8]{2,1,0} parameter(0)
  %t = f32[9,64,8]{2,1,0} parameter(1)
  %i = s32[] parameter(2)
  %slice = bf16[64,8]{1,0} fusion(%s, %i), kind=kLoop, calls=%inner
  %x = f32[64,8]{1,0} convert(%slice)
  %y = f32[1,64,8]{2,1,0} bitcast(%x)
  %new = f32[9,64,8]{2,1,0} dynamic-update-slice(%t, %y, %i)
  ROOT %both = (f32[9,64,8]{2,1,0}, f32[64,8]{1,0}) tuple(%new, %x)
}
ENTRY %main (s: bf16[9,64,8], t: f32[9,64,8], i: s32[]) -> f32[9,64,8] {
  %s = bf16[9,64,8]{2,1,0} parameter(0)
  %t = f32[9,64,8]{2,1,0} parameter(1)
  %i = s32[] parameter(2)
  %f = (f32[9,64,8]{2,1,0}, f32[64,8]{1,0}) fusion(%s, %t, %i), calls=%outer
}
""")
  read, written = 64 * 8 * 2, 2 * 64 * 8 * 4  # a layer of each, and %x
  assert module.traffic() == read + written + 4


def test_a_fusion_that_runs_beside_others_moves_what_it_reads_and_writes():
  # as XLA of JAX 0.12 writes them: what goes in, what comes out, a signal
  part, whole = "bf16[1,64,8]{2,1,0}", "bf16[9,64,8]{2,1,0}"
  one = f"(({whole}, s32[]), {part}, u32[])"
  other = f"(({whole}, s32[], {part}), {whole}, u32[])"
  text = """
%take (p: bf16[9,64,8], i: s32[]) -> bf16[1,64,8] {
  %p = bf16[9,64,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %part = bf16[1,64,8]{2,1,0} dynamic-slice(%p, %i), sizes={1,64,8}
}
%put (q: bf16[9,64,8], i: s32[], x: bf16[1,64,8]) -> bf16[9,64,8] {
  %q = bf16[9,64,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %x = bf16[1,64,8]{2,1,0} parameter(2)
  ROOT %all = bf16[9,64,8]{2,1,0} dynamic-update-slice(%q, %x, %i)
}
ENTRY %main (w: bf16[9,64,8], i: s32[]) -> bf16[9,64,8] {
  %w = bf16[9,64,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %begun = ONE fusion-start(%w, %i), kind=kLoop, calls=%take
  %y = bf16[1,64,8]{2,1,0} fusion-done(%begun)
  %last = OTHER fusion-start(%w, %i, %y), kind=kLoop, calls=%put
  ROOT %z = bf16[9,64,8]{2,1,0} fusion-done(%last)
}
"""
  module = hlo.Module(text.replace("ONE", one).replace("OTHER", other))
  layer, number = 64 * 8 * 2, 4
  assert module.traffic() == 2 * (2 * layer + number)
  ((size, shape, _),) = module.largest()[:1]
  assert (size, shape) == (9 * layer, "bf16[9,64,8]")


@pytest.mark.parametrize(
  "text, found",
  [
    ("replica_groups={{0,1,2},{3,4,5}}, x", [[0, 1, 2], [3, 4, 5]]),
    ("replica_groups=[2,3]<=[6]", [[0, 1, 2], [3, 4, 5]]),
    ("replica_groups=[3,2]<=[2,3]T(1,0)", [[0, 3], [1, 4], [2, 5]]),
    (
      "replica_groups=mesh['x'=2,'y'=2,'z'=2] {'x','z'}, dimensions={1}",
      [[0, 1, 4, 5], [2, 3, 6, 7]],
    ),
    (
      "replica_groups=mesh['x'=2,'y'=3], device_ids=([3,2]T(1,0)) {'x'}",
      [[0, 1], [2, 3], [4, 5]],
    ),
    (
      "replica_groups=mesh['x'=2,'y'=2], device_ids=(0,3,1,2) {'y'}, x",
      [[0, 3], [1, 2]],
    ),
    ("replica_groups=mesh['x'=8] {'x':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
    ("replica_groups={}, channel_id=1", []),
    ("channel_id=1", []),
  ],
)
def test_groups_are_read_in_every_form(text, found):
  assert hlo.groups(text) == found


@pytest.mark.parametrize(
  "text, far, near",
  [
    ("{{0,1,2,3},{4,5,6,7}}", False, 1),
    ("{{0,4},{1,5},{2,6},{3,7}}", True, 1),
    ("{{0,1,4,5},{2,3,6,7}}", True, 2),
    ("{{0,1,2,3,4,5,6,7}}", True, 4),
    ("[2,4]<=[8]", False, 1),
    ("[4,2]<=[2,4]T(1,0)", True, 1),
    ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", False, 1),
    ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", True, 1),
  ],
)
def test_a_small_group_may_have_members_in_several_islands(text, far, near):
  module = hlo.Module(
    "ENTRY %main (a: f32[16]) -> f32[16] {\n"
    f"  %x = f32[16]{{0}} all-reduce(%a), replica_groups={text}, to_apply=%s\n"
    "}\n"
  )
  (found,) = module.collectives(Network(4))
  assert (found.far, found.near) == (far, near)
  assert found.group == len(hlo.groups(f"replica_groups={text}")[0])


@pytest.mark.parametrize(
  "pairs, far",
  [
    ("{{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}", False),
    ("{{0,1},{1,2},{2,3},{3,4},{4,5},{5,6},{6,7},{7,0}}", True),
  ],
)
def test_a_permutation_sends_all_and_far_if_a_pair_lies_apart(pairs, far):
  shape = "(f32[16]{0}, f32[16]{0}, u32[]{:S(2)}, u32[]{:S(2)})"
  module = hlo.Module(
    "ENTRY %main (a: f32[16]) -> f32[16] {\n"
    f"  %x = {shape} collective-permute-start(%a), channel_id=1, "
    f"source_target_pairs={pairs}\n"
    "}\n"
  )
  (found,) = module.collectives(Network(4))
  assert found == ("collective-permute", 2, 1.0, 64.0, 64.0, far, 1.0, 1.0)
  target = chips.target("h100:16")
  assert estimate.split([found], target) == ((0, 64.0) if far else (64.0, 0))


def test_devices_are_numbered_as_they_lie_in_the_mesh(mesh):
  spec = PartitionSpec(("a", "b"))
  body = lambda x: jax.lax.psum(x, "a") + jax.lax.pmax(x, "b")
  f = jax.shard_map(
    body, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
  )
  found = compiled(f, jnp.ones((8, 4))).collectives(Network(4))
  assert [(c.group, c.far) for c in found] == [(2, True), (4, False)]


def test_tpu_layouts_and_reduced_scatters_are_read():
  module = hlo.Module(
    "%scatter (p: f32[8,4]) -> f32[2,4] {\n"
    "  %p = f32[8,4]{1,0:T(8,128)} parameter(0)\n"
    "  %sum = f32[8,4]{1,0:T(8,128)} all-reduce(%p), "
    "replica_groups={{0,1,2,3}}\n"
    "  ROOT %mine = f32[2,4]{1,0:T(8,128)} dynamic-slice(%sum, %i)\n"
    "}\n"
    "ENTRY %main (x: f32[8,4]) -> f32[2,4] {\n"
    "  %x = f32[8,4]{1,0:T(8,128)(2,1)} parameter(0)\n"
    "  ROOT %out = f32[2,4]{1,0:T(8,128)S(1)} fusion(%x), kind=kCustom, "
    "calls=%scatter\n"
    "}\n"
  )
  (found,) = module.collectives()
  assert found == ("reduce-scatter", 4, 1.0, 128.0, 96.0, False, 1.0, 1.0)
  assert module.traffic() == 128.0  # the result stays on the chip


@pytest.mark.parametrize(
  "line, kind, size",
  [
    (
      "((bf16[16,4]{1,0}, f32[16]{0}), (bf16[2,4]{1,0}, f32[2]{0})) "
      "reduce-scatter-start(%a, %b)",
      "reduce-scatter",
      16 * 4 * 2 + 16 * 4,
    ),
    (
      "((bf16[2,4]{1,0:T(8,128)(2,1)}, f32[2]{0}), (bf16[16,4]{1,0}, "
      "f32[16]{0})) all-gather-start(%a, %b)",
      "all-gather",
      16 * 4 * 2 + 16 * 4,
    ),
    (
      "(f32[2]{0}, f32[16]{0}, u32[]{:S(2)}) all-gather-start(%a)",
      "all-gather",
      16 * 4,
    ),
    (
      "((f32[64,128]{1,0}), f32[64,128]{1,0}) all-to-all-start(%a)",
      "all-to-all",
      64 * 128 * 4,
    ),
    ("(f32[16]{0}, f32[8]{0}) all-reduce-start(%a, %b)", "all-reduce", 96),
    ("f32[2]{0} reduce-scatter(%a)", "reduce-scatter", 16 * 4),
  ],
)
def test_an_exchange_of_many_arrays_counts_each_once(line, kind, size):
  module = hlo.Module(
    "ENTRY %main (a: f32[16]) -> f32[2] {\n"
    f"  %x = {line}, replica_groups=[4,8]<=[32]\n"
    "}\n"
  )
  (found,) = module.collectives()
  assert found[:4] == (kind, 8, 1, size)


def test_what_a_compiler_lacks_is_read_from_its_message():
  message = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of
memory in memory space hbm. Used 17.50G of 15.75G hbm.

  Largest program allocations in hbm:

  1. Size: 3.50G
     Operator: op_name="jit(step)/dot_general"
     Shape: f32[30000,30000]{1,0:T(8,128)}
     Unpadded size: 3.35G
  2. Size: 512.00M
     Shape: bf16[16384,16384]{1,0}
"""
  total, largest = exhausted(message, 1.0)
  assert total == 17.5 * 2**30
  assert largest == [
    (3.5 * 2**30, "f32[30000,30000]", "jit(step)/dot_general"),
    (512 * 2**20, "bf16[16384,16384]", "argument"),
  ]


def test_what_is_lacking_early_is_read_from_its_message_too():
  message = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
    "for HLO temporaries (141.83G) exceeds available HBM (95.74G).\n"
  )
  total, largest = exhausted(message, arguments=5e9)
  assert total == 141.83 * 2**30 + 5e9 and largest == []


def test_a_refusal_that_says_no_size_is_of_unknown_size():
  total, largest = exhausted("RESOURCE_EXHAUSTED: no room.", arguments=5e9)
  assert np.isnan(total) and largest == []


def test_of_a_traced_program_the_largest_arrays_are_those_that_loops_keep():
  def layer(x, w):
    return jnp.tanh(x @ w), None

  def loss(w, x):
    return jax.lax.scan(layer, x, w)[0].sum()

  program = jax.make_jaxpr(jax.grad(loss))(
    jnp.ones((6, 8, 8)), jnp.ones((32, 8))
  )
  found = arrays.largest(program, devices=4)
  size, shape, what = found[0]
  assert size == 6 * 32 * 8 * 4 / 4  # of one device, the shape is of all
  assert shape == "f32[6,32,8] over all 4 devices"
  assert arrays.largest(program, devices=1)[0][1] == "f32[6,32,8]"
  assert what.endswith(", of all 6 steps of a loop")
  assert [x[0] for x in found] == sorted((x[0] for x in found), reverse=True)


def test_bytes_of_tuples_and_small_types():
  assert hlo.bytes_of("(bf16[3,5]{1,0}, pred[7], s4[8])") == 30 + 7 + 4
  assert hlo.bytes_of("f8e4m3fn[10]") == 10
  assert np.isclose(hlo.bytes_of("f32[]"), 4)
