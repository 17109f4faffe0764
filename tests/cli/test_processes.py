"""Two processes meet, share rows and checkpoints, and keep their logs."""

import collections
import functools
import json
import os
import pathlib
import re
import signal
import socket
import sys
import threading
import time

import numpy as np
import pytest

from tests import tiny
from tests.commands import SERVER, refused, run

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


def free_port():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


def as_under_slurm(process, port):
  """What SLURM tells each of two tasks on one node."""
  os.environ.update(
    SLURM_JOB_ID="1", SLURM_STEP_NODELIST="localhost", SLURM_NTASKS="2",
    SLURM_PROCID=str(process), SLURM_LOCALID=str(process),
    JAX_COORDINATOR_PORT=str(port),
  )  # fmt: skip


def member(process, port, folder):
  """One of two processes of 2 devices, started as a command is."""
  as_under_slurm(process, port)
  os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
  from pyramid_jax.cli import app, processes  # noqa: F401  defines flags

  sys.argv = ["pyramid-train", "--distributed", f"--logs={folder}/logs"]
  app.run(functools.partial(share, process, folder))


def share(process, folder):
  """Writes what a process finds to FOLDER/found_PROCESS.json."""
  from pyramid_jax.cli import processes

  processes.start()
  import jax

  from pyramid_jax import checkpoint, sharding
  from pyramid_jax.config import Config, MeshConfig

  found = {"processes": jax.process_count(), "process": jax.process_index()}
  print(f"says {process}", flush=True)
  mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2))
  found["rows"] = sharding.local_rows(mesh, 8)
  mine = {"x": np.array(found["rows"], np.float32)}
  placed = sharding.place_batch(mesh, mine, 8)
  every = jax.jit(lambda x: x, out_shardings=sharding.sharding(mesh))
  found["all rows"] = np.asarray(every(placed["x"])).tolist()
  if process == 1:  # its disk does not count: the first process looks
    full = collections.namedtuple("usage", "free total")(0, 1)
    checkpoint.shutil.disk_usage = lambda _: full
  checkpoints = checkpoint.Checkpoints(folder / "run", writing=True)
  checkpoints.save(3, {"params": placed}, Config(), note="kept")
  checkpoints.wait()
  shape = jax.ShapeDtypeStruct((8,), np.float32, sharding=placed["x"].sharding)
  restored = checkpoints.restore({"params": {"x": shape}})["params"]["x"]
  found["restored"] = np.asarray(every(restored)).tolist()
  found["note"] = checkpoints.meta()[1]["note"]
  checkpoints.close()
  (folder / f"found_{process}.json").write_text(json.dumps(found))


def test_two_processes_meet_and_share_rows_and_checkpoints(tmp_path):
  port = free_port()
  both = [
    SERVER.Process(target=member, args=(i, port, tmp_path)) for i in range(2)
  ]
  for process in both:
    process.start()
  for process in both:
    process.join(60)
    process.kill()
  for i, process in enumerate(both):
    assert process.exitcode == 0
    found = json.loads((tmp_path / f"found_{i}.json").read_text())
    assert found == {
      "processes": 2,
      "process": i,
      "rows": [0, 1, 2, 3] if i == 0 else [4, 5, 6, 7],
      "all rows": list(range(8)),
      "restored": list(range(8)),
      "note": "kept",
    }
    log = (tmp_path / "logs" / f"process_0000{i}.log").read_text()
    assert re.search(rf"process {i} of 2: on \S+ with 2 of 4 devices", log)
    assert f"says {i}" in log and f"says {1 - i}" not in log


@pytest.mark.parametrize(
  "flags, message",
  [
    (["coordinator=a:1"], "--coordinator, --processes and --process belong"),
    (["process=0", "processes=2"], "belong together; give all three, or --dis"),
    (
      ["coordinator=a:1", "processes=2", "process=2"],
      r"--process=2 is not one of --processes=2; the first is 0",
    ),
    (["distributed"], r"the other processes were not found .* no TPU pod, SLU"),
  ],
)
def test_processes_that_cannot_meet_are_told(tmp_path, flags, message):
  refused(
    message, "train", f"config={tiny.__file__}", f"workdir={tmp_path}/run",
    *flags,
  )  # fmt: skip
  assert not list(tmp_path.iterdir())


def nobody_tells():
  """Stands for a server of the machines that does not answer."""
  import jax

  def ask(*args, **kwargs):
    raise RuntimeError("Getting metadata['accelerator-type'] failed")

  jax.distributed.initialize = ask


def test_a_server_that_does_not_answer_is_worth_another_start(tmp_path):
  ended = run(
    "train", f"config={tiny.__file__}", f"workdir={tmp_path}/run",
    "distributed", before=nobody_tells,
  )  # fmt: skip
  assert ended.code == 3  # a mistake's is 2
  assert "not found (Getting metadata['accelerator-type'] failed)" in ended.err


def end_at_once(folder, code):
  """A process whose copies are slow, and told to end with all on the host."""
  from pyramid_jax.cli import app, processes

  def main():
    processes.start()
    copies = list(processes._copies)
    send = lambda number: [copy.send_signal(number) for copy in copies]
    for copy in copies:
      while pathlib.Path(f"/proc/{copy.pid}/comm").read_text() != "tee\n":
        time.sleep(0.01)
    send(signal.SIGTERM)
    send(signal.SIGSTOP)
    threading.Timer(0.5, send, [signal.SIGCONT]).start()
    print("printed")
    print("the reason", file=sys.stderr)
    if code:
      app._end_now(code)

  sys.argv = ["pyramid-train", f"--logs={folder}/logs"]
  app.run(main)


@pytest.mark.parametrize("code", [0, 2])
def test_a_log_has_the_last_line_when_its_process_ends(tmp_path, code):
  """The end of a container's first process is that of all others in it."""
  process = SERVER.Process(target=end_at_once, args=(tmp_path, code))
  process.start()
  process.join(60)
  log = (tmp_path / "logs" / "process_00000.log").read_text()
  assert process.exitcode == code
  assert "printed" in log and "the reason" in log


def print_to_nobody(folder, logs):
  """A process whose output has a reader that goes."""
  from absl import app
  from tqdm import tqdm

  from pyramid_jax.cli import processes

  reader, writer = os.pipe()
  os.set_inheritable(writer, True)
  for number in (1, 2):
    os.dup2(writer, number)
  os.close(writer)

  def main(_):
    processes.start()
    os.close(reader)
    for line in ("one", "two"):
      print(line, flush=True)
      print(f"{line} of errors", file=sys.stderr)
      processes.log.warning("%s logged", line)
      tqdm.write(line)
    with tqdm(total=2, disable=False) as bar:
      bar.update()
    (folder / "went_on").touch()

  app.run(main, argv=["pyramid-train", *([f"--logs={folder}"] if logs else [])])


@pytest.mark.parametrize("logs", [False, True])
def test_what_prints_goes_on_when_nobody_reads_it(tmp_path, logs):
  """As on a host that shuts down, where its ssh connection ends first."""
  process = SERVER.Process(target=print_to_nobody, args=(tmp_path, logs))
  process.start()
  process.join(60)
  assert (tmp_path / "went_on").exists()
  assert process.exitcode == 0
  if logs:
    log = (tmp_path / "process_00000.log").read_text()
    for line in ("one", "two"):
      assert log.count(f"{line}\n") == 2
      assert f"{line} of errors\n" in log and f"{line} logged" in log
