"""Batches: the same rows by access, by resume and on any number of hosts."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import numpy.testing as npt
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pyramid_jax.config import (
  ConfigError,
  FlowConfig,
  LatentDataConfig,
  MeshConfig,
  Source,
)
from pyramid_jax.data import latents, packing, pipeline, rows
from pyramid_jax.sharding import make_mesh
from tests.data import random_store

ROOT = pathlib.Path(__file__).parents[2]
SPEC = rows.TokenSpec(FlowConfig())
ROWS = 8


def config(paths, **changes):
  settings = {
    "sources": tuple(
      Source(str(path), weight)
      for path, weight in zip(paths, (7.0, 1.0), strict=False)
    ),
    "rows": ROWS,
    "latent_tokens": 256,
    "text_tokens": 40,
    "segments": 12,
    "window": 32,
  }
  return LatentDataConfig(**(settings | changes))


def stores_of(path):
  """Videos and images, as a mixture of 7 to 1."""
  if not path.exists():
    random_store.write(path / "videos", 70)
    random_store.write(path / "images", 20, seed=1000, frames=(1, 1))
  paths = [path / "videos", path / "images"]
  return paths, latents.open_stores(paths)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
  return stores_of(tmp_path_factory.mktemp("stores") / "s")


def start(mixture, start_row=0, process_rows=None, **changes):
  paths, stores = mixture
  planner = packing.Planner(
    stores, config(paths, **changes), SPEC.flow, SPEC.patch, seed=3
  )
  return pipeline.batches(stores, planner, SPEC, start_row, process_rows)


def take(batches, n):
  out = [next(batches) for _ in range(n)]
  batches.close()
  return out


def assert_same(actual, desired):
  assert actual.keys() == desired.keys()
  for key, value in desired.items():
    npt.assert_array_equal(actual[key], value, key)


@pytest.fixture(scope="module")
def whole(mixture):
  """The first batches of an uninterrupted run on one process."""
  return take(start(mixture), 6)


def test_batches_are_the_rows_in_order(mixture, whole):
  paths, stores = mixture
  planner = packing.Planner(stores, config(paths), SPEC.flow, SPEC.patch, 3)
  one_by_one = pipeline.Rows(stores, planner, SPEC)
  for n in (40, 3, 17, 0, 16):  # any row, in any order
    step, place = divmod(n, ROWS)
    assert_same({k: v[place] for k, v in whole[step].items()}, one_by_one[n])
  index = np.concatenate([b["index"] for b in whole])
  npt.assert_array_equal(index, np.arange(6 * ROWS))


@pytest.mark.parametrize("step", [1, 4])
def test_a_resumed_run_goes_on_where_it_stopped(mixture, whole, step):
  batches = start(mixture)
  for _ in range(step):
    next(batches)
  row = batches.row
  batches.close()
  assert row == step * ROWS
  for actual, desired in zip(
    take(start(mixture, start_row=row), 2), whole[step:], strict=False
  ):
    assert_same(actual, desired)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_load_the_global_batch(mixture, whole, hosts):
  each = ROWS // hosts
  parts = [
    take(start(mixture, process_rows=range(h * each, (h + 1) * each)), 3)
    for h in range(hosts)
  ]
  for step in range(3):
    joined = {
      k: np.concatenate([part[step][k] for part in parts]) for k in whole[0]
    }
    assert_same(joined, whole[step])


def test_a_run_goes_on_with_other_hosts(mixture, whole):
  row = 2 * ROWS
  first = take(start(mixture, row, process_rows=[0, 1, 6, 7]), 1)[0]
  assert_same(first, {k: v[[0, 1, 6, 7]] for k, v in whole[2].items()})


def test_a_row_holds_the_clips_of_its_plan(mixture):
  paths, stores = mixture
  planner = packing.Planner(stores, config(paths), SPEC.flow, SPEC.patch, 3)
  row = pipeline.Rows(stores, planner, SPEC)[5]
  picks = planner.row(5)
  assert (row["stage"] >= 0).sum() == len(picks)
  for i, pick in enumerate(picks):
    (choice,) = pick.choices
    clip = stores[pick.source][pick.sample]
    text = row["text"][row["text_segment"] == i + 1]
    wanted = random_store.NULL.text if choice.drop else clip["text"]
    npt.assert_array_equal(text, wanted)
    assert row["stage"][i] == choice.stage


def test_images_and_videos_are_mixed_by_weight(mixture):
  paths, stores = mixture
  planner = packing.Planner(stores, config(paths), SPEC.flow, SPEC.patch, 3)
  picks = [p for n in range(150) for p in planner.row(n)]
  share = np.mean([p.source for p in picks])
  # weights 7 to 1; a pass holds 140 videos and 20 images exactly
  npt.assert_allclose(share, 1 / 8, atol=0.03)
  assert all(c.unit == 0 for p in picks if p.source for c in p.choices)


def test_several_segments_of_a_clip_share_a_row(mixture):
  batch = take(
    start(mixture, segments_per_clip=2, latent_tokens=512, text_tokens=80), 1
  )[0]
  count = (batch["stage"] >= 0).sum(1)
  npt.assert_array_equal(count % 2, 0)
  assert (batch["segment"].max(1) == count).all()


def test_a_process_loads_what_its_devices_hold():
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  assert pipeline.rows_of_process(sharding, 8) == list(range(8))

  class OneHost:
    """The process that holds the third pair of tensor-parallel devices."""

    def addressable_devices_indices_map(self, shape):
      every = sharding.devices_indices_map(shape)
      return {d: every[d] for d in mesh.devices[1, 0].flat}

  assert pipeline.rows_of_process(OneHost(), 8) == [4, 5]


def test_a_process_without_rows_is_an_error(mixture):
  with pytest.raises(ConfigError, match="every process needs at least one"):
    start(mixture, process_rows=[])


# A run with two loader processes; it says who they are and what it got. With
# this platform, whatever started a JAX backend would fail.
WORKERS = """
import multiprocessing, pathlib, sys, time
import numpy as np
from tests.data import test_pipeline as t

if __name__ == "__main__":
  mixture = t.stores_of(pathlib.Path(sys.argv[1]))
  batches = t.start(mixture, workers=2)
  got = [next(batches) for _ in range(3)]
  np.savez(sys.argv[2], **{f"{i}/{k}": v for i, b in enumerate(got)
                           for k, v in b.items()})
  print(*(p.pid for p in multiprocessing.active_children()), flush=True)
  time.sleep(60)
"""


def test_loader_processes_load_the_same_and_die_with_a_killed_run(
  mixture, whole, tmp_path
):
  script = tmp_path / "run.py"
  script.write_text(WORKERS)
  errors = tmp_path / "stderr"
  with errors.open("w") as stderr:
    run = subprocess.Popen(
      [sys.executable, script, mixture[0][0].parent, tmp_path / "got.npz"],
      env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "nowhere"},
      stdout=subprocess.PIPE,
      stderr=stderr,
      text=True,
    )
  workers = [int(pid) for pid in run.stdout.readline().split()]
  run.send_signal(signal.SIGKILL)
  run.wait()
  assert len(workers) == 2, errors.read_text()
  with np.load(tmp_path / "got.npz") as file:
    for i in range(3):
      assert_same({k: file[f"{i}/{k}"] for k in whole[i]}, whole[i])
  deadline = time.monotonic() + 10
  while any(map(is_alive, workers)) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not any(map(is_alive, workers))


def is_alive(pid):
  """Whether a process runs; one that waits to be reaped does not."""
  try:
    state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
  except OSError:
    return False
  return state.split()[0] != "Z"
