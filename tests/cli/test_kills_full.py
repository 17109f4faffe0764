"""Two processes that are killed at any moment of a save."""

import contextlib
import itertools
import os
import random
import signal
import socket
import sys
import time

import jax
import numpy as np

from pyramid_jax import checkpoint, sharding
from pyramid_jax.config import Config, MeshConfig
from tests.commands import SERVER

KILLS = 30
RANDOM = random.Random()  # other moments every time; a failure tells which
SHAPES = {
  "params": {"a": (64, 512), "b": (1024, 64), "c": (7,)},
  "progress": {"step": ()},
}
MESH = MeshConfig(data=2, fsdp=2, tensor=2)


def targets(mesh):
  """Where the arrays lie: split, over both processes, and whole."""
  names = lambda shape: ("embed", "mlp") if len(shape) == 2 else ()
  return jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(
      shape, np.float32, sharding=sharding.sharding(mesh, *names(shape))
    ),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def at_step(step, mesh):
  """Arrays that tell the step, and their places, from every number."""

  def one(target):
    full = np.arange(np.prod(target.shape, dtype=int), dtype=np.float32)
    full = full.reshape(target.shape) + step
    return jax.make_array_from_callback(
      target.shape, target.sharding, lambda at: full[at]
    )

  return jax.tree.map(one, targets(mesh))


def require_whole(checkpoints, mesh):
  """The newest checkpoint's step; every number of it is right."""
  step = checkpoints.latest
  restored = checkpoints.restore(targets(mesh))
  parts = zip(
    jax.tree.leaves(restored), jax.tree.leaves(at_step(step, mesh)),
    strict=True,
  )  # fmt: skip
  for pair in parts:
    shards = (x.addressable_shards for x in pair)
    for found, expected in zip(*shards, strict=True):
      np.testing.assert_array_equal(found.data, expected.data)
  assert checkpoints.meta()[0] == Config()
  return step


def save_for_ever(process, port, workdir, pipe):
  """One of two processes; tells what it reads, begins and has finished."""
  os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
  sys.stderr.flush()
  silent = os.open(os.devnull, os.O_WRONLY)
  os.dup2(silent, 1)
  os.dup2(silent, 2)
  jax.distributed.initialize(
    f"localhost:{port}", 2, process, cluster_detection_method="deactivate"
  )
  mesh = sharding.make_mesh(MESH)
  checkpoints = checkpoint.Checkpoints(workdir, writing=True)
  read = 0
  if checkpoints.latest is not None:
    read = require_whole(checkpoints, mesh)
  pipe.send(("read", read))
  for step in itertools.count(read + 1):
    items = at_step(step, mesh)
    pipe.send(("begin", step))
    checkpoints.save(step, items, Config())
    checkpoints.wait()
    pipe.send(("done", step))


@contextlib.contextmanager
def two_savers(workdir):
  """Yields their processes and the first one's messages."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  pipes = [SERVER.Pipe(duplex=False) for _ in range(2)]
  both = [
    SERVER.Process(target=save_for_ever, args=(i, port, workdir, pipe[1]))
    for i, pipe in enumerate(pipes)
  ]
  for process in both:
    process.start()
  for _, sender in pipes:
    sender.close()
  try:
    yield both, pipes[0][0]
  finally:
    for process in both:
      process.kill()
      process.join()


def next_message(pipe, kind):
  """The step of the next message of a kind."""
  assert pipe.poll(60), "a process that saves says nothing for a minute"
  found, step = pipe.recv()
  assert found == kind
  return step


def test_no_kill_at_any_moment_of_a_save_loses_or_tears_a_checkpoint(tmp_path):
  done, torn, save = 0, 0, 0.5
  for kill in range(KILLS):
    with two_savers(tmp_path) as (both, pipe):
      read = next_message(pipe, "read")
      assert read >= done, f"kill {kill}: step {done} was lost"
      begun = next_message(pipe, "begin")
      assert begun == read + 1
      if kill == 0:  # how long a save takes
        since = time.monotonic()
        done = next_message(pipe, "done")
        save = time.monotonic() - since
        begun = next_message(pipe, "begin")
      moment = RANDOM.uniform(0, 1.1 * save)
      first = RANDOM.randrange(2)
      print(f"kill {kill}: process {first}, {moment:.3f} s into step {begun}")
      time.sleep(moment)
      os.kill(both[first].pid, signal.SIGKILL)
      time.sleep(RANDOM.choice([0, 0.05, 0.2]))
    with contextlib.suppress(EOFError):  # what it still said
      while True:
        kind, step = pipe.recv()
        done = step if kind == "done" else done
    left = [p.name for p in (tmp_path / "checkpoints").iterdir()]
    torn += any(not name.isdigit() for name in left)
  print(f"{torn} of {KILLS} kills left a checkpoint half written")
  assert torn >= KILLS // 6, "too few kills fell into a save"
  one = checkpoint.Checkpoints(tmp_path, writing=True)  # one process
  assert require_whole(one, sharding.make_mesh(MeshConfig(fsdp=8))) >= done
  one.close()
  left = [p.name for p in (tmp_path / "checkpoints").iterdir()]
  assert all(name.isdigit() for name in left)
