"""Two processes meet, share rows and checkpoints, and keep their logs."""

import collections
import functools
import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
import yaml

from tests import tiny
from tests.commands import SERVER, refused

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


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=str)
def test_scripts_parse(script):
  subprocess.run(["bash", "-n", script], check=True)


def flags_of(text):
  return set(re.findall(r"--([a-z_]+)", text))


def test_every_launcher_starts_the_same_command_with_flags_that_it_has():
  command = subprocess.run(
    [sys.executable, "-m", "pyramid_jax.cli.train", "--help"],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  known = {x.split(".")[0] for x in flags_of(command.stdout)}
  jobs = yaml.safe_load((LAUNCH / "gke.yaml").read_text())["spec"]
  (job,) = jobs["replicatedJobs"]
  job = job["template"]["spec"]
  assert job["completions"] == job["parallelism"]
  (container,) = job["template"]["spec"]["containers"]
  assert container["command"][:2] == ["pyramid-train", "--distributed"]
  assert flags_of(" ".join(container["command"])) <= known
  mounted = {m["name"] for m in container["volumeMounts"]}
  assert mounted == {v["name"] for v in job["template"]["spec"]["volumes"]}
  for name in ("tpu_pod.sh", "slurm.sh", "local.sh"):
    (start,) = re.findall(
      r"^[^#\n]*(\${COMMAND:-pyramid-train}(?:.*\\\n)*.*)",
      (LAUNCH / name).read_text(), re.MULTILINE,
    )  # fmt: skip
    assert '"$@"' in start or "$arguments" in start
    assert flags_of(start) <= known and flags_of(start)


@pytest.mark.parametrize("arguments", [[], ["two"], ["--config=a.py"]])
def test_the_local_script_asks_for_a_number_of_processes(arguments):
  result = subprocess.run(
    ["bash", str(LAUNCH / "local.sh"), *arguments],
    capture_output=True,
    text=True,
  )
  assert result.returncode == 2
  assert "is no number of processes; give it first" in result.stderr
