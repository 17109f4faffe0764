"""The roofline's arithmetic, by hand."""

import dataclasses
import math
import pathlib

import pytest

from pyramid_jax.attention import tiles
from pyramid_jax.config import (
  Config,
  ConfigError,
  DiTConfig,
  LatentDataConfig,
  MeshConfig,
)
from pyramid_jax.cost import chips, estimate, gpu_targets, network
from pyramid_jax.cost.flops import Flops
from pyramid_jax.cost.hlo import Collective
from pyramid_jax.cost.workload import Workload
from pyramid_jax.models.dit import make_dit

CHIP = chips.Chip(
  "hand", peak=100.0, hbm=1.0, bandwidth=10.0, link=5.0, slow=1.0, island=8,
  kind="", source="",
)  # fmt: skip
SHARES = estimate.Efficiency(0.5, 0.25, 1.0, 0.5)


def test_each_part_takes_its_work_by_its_share_of_the_peak():
  found = estimate.roofline(CHIP, Flops(200.0, 50.0), 30.0, 10.0, 2.0, SHARES)
  assert found == (200 / 50 + 50 / 25, 3.0, (10 / 5 + 2 / 1) / 0.5)
  assert (found.step, found.binds, found.serial) == (8.0, "network", 17.0)


def test_what_is_not_known_does_not_bind():
  found = estimate.roofline(
    CHIP, Flops(200.0, 0.0), float("nan"), 0.0, assumed=SHARES
  )
  assert (found.step, found.binds) == (4.0, "compute")


def test_groups_larger_than_the_fast_network_share_its_slow_ones():
  """A ring through 16 devices in two islands crosses twice, not 16 times.

  Eight such rings, one for each slow network of an island, carry an eighth of
  the bytes each; so a device's slow network has an eighth of what it sends to
  its neighbours in the rings, the seven others of which are in its island.
  """
  target = dataclasses.replace(chips.target("h100:16"), chip=CHIP)
  small = Collective("all-gather", 8, 1, 8.0, 7.0)
  large = Collective("all-reduce", 16, 1, 16.0, 30.0, far=True, near=8.0)
  assert estimate.split([small, large], target) == (7.0 + 30.0, 30.0 / 8)
  unsaid = large._replace(group=0, far=False, near=1.0)  # of all devices
  assert estimate.split([unsaid], target) == (30.0, 30.0 / 8)
  apart = small._replace(far=True)  # one member in each island
  assert estimate.split([small, apart], target) == (7.0, 7.0)
  pairs = small._replace(far=True, near=2.0)
  assert estimate.split([pairs], target) == (7.0, 3.5)
  assert estimate.between_slices(12.0, 3) == 2 * 12 * 2 / 3


def test_an_all_to_all_sends_each_other_member_its_part():
  """Of 16 in two islands 8 are in the other, and 7 beside."""
  target = dataclasses.replace(chips.target("h100:16"), chip=CHIP)
  all_of_them = Collective("all-to-all", 16, 1, 64.0, 60.0, far=True, near=8.0)
  assert estimate.split([all_of_them], target) == (7 * 4.0, 8 * 4.0)
  unsaid = all_of_them._replace(group=0, far=False, near=1.0)
  assert estimate.split([unsaid], target) == (7 * 4.0, 8 * 4.0)
  apart = Collective("all-to-all", 2, 1, 64.0, 32.0, far=True, near=1.0)
  assert estimate.split([apart], target) == (0.0, 32.0)
  inside = Collective("all-to-all", 8, 1, 64.0, 56.0)
  assert estimate.split([inside], target) == (56.0, 0.0)


@pytest.mark.parametrize(
  "topology, platform, devices, count",
  [
    ("v5p:4x4x8", "tpu", 128, 128),
    ("tpu7x:2x2x1", "tpu", 8, 4),
    ("h100:8", "cuda", 8, 8),
    ("cpu:2", "cpu", 2, 2),
  ],
)
def test_topologies_are_read(topology, platform, devices, count):
  found = chips.target(topology)
  assert (found.platform, found.devices) == (platform, devices)
  assert found.chips == count


@pytest.mark.parametrize(
  "topology, platform, message",
  [
    ("v9:2x2", "", "'v9' is not one of v4, v5e"),
    ("v5p", "", "not a chip and its shape"),
    ("v5p:0x2", "", "not a chip and its shape"),
    ("h100:8", "tpu", "--platform=tpu has no h100"),
    ("v6e:16x32", "", "512 devices; .* 256 at most: .* --slices=2"),
    ("tpu7x:16x24x32", "", "24,576 devices; .* 18,432 at most: .*=2"),
    ("v4:2x2", "", "v4 has 3 dimensions, such as v4:2x2x1"),
    ("v6e:2x2x1", "", "v6e has 2 dimensions, such as v6e:2x2"),
    ("v5p:8", "", "v5p has 3 dimensions"),
    ("v5e:3x3", "", "is 9 chips of no whole hosts: .*; nearest: v5e:4x4"),
    ("v5p:3x1x1", "", "first two dimensions are .* of 2, .*: v5p:4x2x1"),
    ("v5e:1x8", "", "or the slice is 1, 2 or 4 chips .*: v5e:2x8"),
  ],
)
def test_a_topology_that_is_none_is_told(topology, platform, message):
  with pytest.raises(ConfigError, match=message):
    chips.target(topology, platform)


def test_of_a_gpus_memory_a_share_is_planned_for():
  memory = lambda topology: chips.target(topology).memory
  assert memory("v5p:2x2x2") == chips.CHIPS["v5p"].hbm
  assert memory("h100:8") == pytest.approx(0.92 * 79.1 * 2**30, rel=1e-4)
  assert memory("cpu:8") == math.inf


def test_gpus_come_in_machines_of_eight():
  with pytest.raises(ConfigError, match="12 GPUs .*of 8; nearest: 16"):
    gpu_targets.devices("h100", 12)


def test_every_gpu_is_described_to_the_compiler():
  gpus = {c.name for c in chips.CHIPS.values() if c.kind.startswith("NVIDIA")}
  assert gpus == gpu_targets.OWN.keys()


def test_every_chip_has_the_blocks_that_its_kernels_have():
  for chip in chips.CHIPS.values():
    assert chips.of_kind(chip.kind) is chip
    of_tpu = chip.kind.startswith("TPU")
    blocks = tiles.of_kind(chip.kind)
    blocks = blocks if of_tpu else blocks.forward
    assert chip.tile == (blocks.query, blocks.key)


def test_every_chip_names_its_source():
  for chip in chips.CHIPS.values():
    assert chip.source.startswith("https://")
    # compute grows faster than memory: more than 100 FLOPs a byte everywhere
    assert chip.peak / chip.bandwidth > 100
    assert chip.slow < chip.link < chip.bandwidth


def test_by_formula_remat_that_keeps_matmuls_recomputes_none():
  target = chips.target("v5p:2x2x2")
  config = Config(latents=LatentDataConfig(rows=8))
  row = Workload(1.0, 1000.0, 50.0, 1e6, 2e6, "")

  def dense(remat):
    model = dataclasses.replace(config.model, remat=remat)
    changed = dataclasses.replace(config, model=model)
    return estimate.by_formula(changed, row, target)[1].dense

  assert dense("matmuls") == dense("none") < dense("attention")
  assert dense("attention") == dense("layer") < 1.4 * dense("none")


def by_formula_of_network(topology="h100:16", heads=24, **mesh):
  """Seconds of 16 rows, at the whole of the peaks."""
  row = Workload(1.0, 1000.0, 50.0, 1e6, 2e6, "")
  model = DiTConfig(heads=heads)
  data = LatentDataConfig(rows=16)
  config = Config(model=model, latents=data, mesh=MeshConfig(**mesh))
  found, _ = estimate.by_formula(config, row, chips.target(topology))
  return found.network * estimate.Efficiency().network


H100 = chips.CHIPS["h100"]
USED = estimate.USED * make_dit(Config().model).size
FSDP = (3 + 1) * USED  # for three passes, of which one recomputes; gradients


def test_by_formula_an_axis_around_the_sequence_reaches_further():
  """8 devices of fsdp lie in one node, or in every second place of two.

  There half a node's slow networks are theirs: four to eight members. Of the
  two copies in two nodes, each device's part is summed over its own (data).
  """
  sent = FSDP * 7 / 8
  near = sent / H100.link + 2 * USED / 8 / 2 / H100.slow
  far = sent / H100.link + sent / 4 / H100.slow
  assert by_formula_of_network(data=-1, fsdp=8) == pytest.approx(near)
  assert by_formula_of_network(fsdp=8, sequence=2) == pytest.approx(far)


def test_by_formula_all_devices_of_several_nodes_share_their_slow_networks():
  sent = FSDP * 15 / 16
  expected = sent / H100.link + sent / 8 / H100.slow
  assert by_formula_of_network(fsdp=16) == pytest.approx(expected)


@pytest.mark.parametrize("heads, summed", [(24, 2), (30, 2), (32, 1), (48, 1)])
def test_by_formula_gradients_of_a_few_rows_are_sums_on_tpus(heads, summed):
  """Twice the bytes: 12 or 15 rows of a kernel to a device, not 16 or 24."""
  target, mesh = chips.target("v6e:16x16"), dict(data=2, fsdp=128)
  joined = network.in_order(target)
  whole = dict(data=2, fsdp=128, tensor=1, sequence=1)
  links = {axis: joined.links(network.along(whole, axis, 256)) for axis in mesh}
  used = estimate.USED * make_dit(DiTConfig(heads=heads)).size
  sent = (3 + summed) * used * 127 / 128 / links["fsdp"]
  sent += 2 * used / 128 / 2 / links["data"]
  found = by_formula_of_network("v6e:16x16", heads, **mesh)
  assert found == pytest.approx(sent / target.chip.link)


def test_by_formula_hbm_moves_about_what_compiled_programs_move(monkeypatch):
  benchmarks = pathlib.Path(__file__).parents[2] / "benchmarks"
  monkeypatch.syspath_prepend(str(benchmarks))
  import scale

  others = (c for machine in scale.MACHINES for c in scale.choices(machine))
  kept, shares = scale.kept(), {}
  for cell in [*scale.cells(), *others, *scale.largest()]:
    traffic = kept.get(cell.key, {}).get("traffic", math.nan)
    if math.isfinite(traffic) and cell.remat != "none":  # as docs/scale.md says
      config, target = cell.config, cell.target
      tensor = estimate.mesh_of(config, target)["tensor"]
      parameters = make_dit(config.model).size / tensor
      moved = estimate.moved(config, parameters, target)
      shares[cell.key] = moved / traffic
  assert len(shares) >= 30
  # 9% where it was fitted; the rest is what docs/scale.md says of the others
  assert min(shares.values()) > 0.82 and max(shares.values()) < 1.17
  fitted = [v for k, v in shares.items() if "mmdit" in k and "1024" not in k]
  assert min(fitted) > 0.91 and max(fitted) < 1.09
