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

from pyramid_jax.cli import config as config_flag
from pyramid_jax.cost import chips
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
  # a mistake, exit code 2, is not started anew
  (rule,) = jobs["failurePolicy"]["rules"]
  assert rule["action"] == "FailJobSet"
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule["action"] == "FailJob"
  (container,) = job["template"]["spec"]["containers"]
  assert rule["onExitCodes"] == {
    "containerName": container["name"], "operator": "In", "values": [2],
  }  # fmt: skip
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


@pytest.mark.parametrize("name", ["gke.yaml", "tpu_pod.sh", "slurm.sh"])
def test_a_launchers_example_is_a_run_that_needs_no_other(name):
  text = (LAUNCH / name).read_text()
  (path,) = re.findall(r"--config=(\S+)", text)
  (data,) = re.findall(r"--data=(\S+)", text)
  config = config_flag.read(str(LAUNCH.parent / path))
  assert not config.train.init
  sources = [source.path for source in config.latents.sources]
  assert [data.removeprefix("/mnt").removeprefix("/shared/")] == sources


def launched(tmp_path, script, stand_in, program, **environment):
  """What a launcher starts, where `program` stands for one it cannot."""
  folder = tmp_path / "stand-ins"
  folder.mkdir()
  (folder / stand_in).write_text(f"#!/bin/bash\n{program}\n")
  (folder / stand_in).chmod(0o755)
  return subprocess.run(
    ["bash", LAUNCH / script, "--config=a b.py"],
    env={"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(tmp_path)}
    | environment,
    check=True, capture_output=True, text=True,
  ).stdout.splitlines()  # fmt: skip


@pytest.mark.parametrize("place", ["pyramid_jax/.venv/bin", ".local/bin"])
def test_a_tpu_pods_hosts_find_what_is_installed_there(tmp_path, place):
  (tmp_path / "pyramid_jax").mkdir()
  (tmp_path / place).mkdir(parents=True)
  command = tmp_path / place / "pyramid-train"
  command.write_text('#!/bin/bash\npwd\nprintf "%s\\n" "$@"\n')
  command.chmod(0o755)
  remote = 'cd; last="${*: -1}"; exec bash -c "${last#--command=}"'
  found = launched(
    tmp_path, "tpu_pod.sh", "gcloud", remote, TPU="pod", ZONE="zone"
  )
  assert found == [
    str(tmp_path / "pyramid_jax"), "--distributed", "--config=a b.py",
  ]  # fmt: skip


@pytest.mark.parametrize("given", [None, "0.5"])
def test_slurm_tells_each_process_of_its_cores_and_memory(tmp_path, given):
  environment = {"SLURM_CPUS_PER_TASK": "7"}
  if given:
    environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = given
  memory, *arguments = launched(
    tmp_path, "slurm.sh", "srun",
    'printf "%s\\n" "$XLA_PYTHON_CLIENT_MEM_FRACTION" "$@"', **environment,
  )  # fmt: skip
  assert memory == given or float(memory) == chips.GPU_SHARE
  assert "--cpus-per-task=7" in arguments
  assert arguments[-3:] == ["pyramid-train", "--distributed", "--config=a b.py"]


@pytest.mark.parametrize("arguments", [[], ["two"], ["--config=a.py"]])
def test_the_local_script_asks_for_a_number_of_processes(arguments):
  result = subprocess.run(
    ["bash", str(LAUNCH / "local.sh"), *arguments],
    capture_output=True,
    text=True,
  )
  assert result.returncode == 2
  assert "is no number of processes; give it first" in result.stderr
