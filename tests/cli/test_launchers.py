"""The scripts of launch/ start the same command, anew where that helps."""

import configparser
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from pyramid_jax.cli import config as config_flag
from pyramid_jax.cost import chips

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


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
  assert {
    "distributed",
    "stopped_code",
    "max_starts",
  } <= known  # slurm.sh, tpu_pod.sh
  (start,) = re.findall(
    r"^[^#\n]*(\${COMMAND:-pyramid-train}(?:.*\\\n)*.*)",
    (LAUNCH / "local.sh").read_text(), re.MULTILINE,
  )  # fmt: skip
  assert '"$@"' in start
  assert flags_of(start) <= known and flags_of(start)


def test_a_slice_has_a_node_pool_of_its_own():
  """JobSet reads that of its own annotations or of a replicated job's."""
  job = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
  name = "alpha.jobset.sigs.k8s.io/exclusive-topology"
  assert job["metadata"]["annotations"] == {
    name: "cloud.google.com/gke-nodepool"
  }
  (slices,) = job["spec"]["replicatedJobs"]
  assert "metadata" not in slices["template"]["spec"]["template"]


def test_slurm_gives_a_job_whole_nodes():
  lines = (LAUNCH / "slurm.sh").read_text().splitlines()
  # without --mem a job has the default memory of its cores
  assert {"#SBATCH --exclusive", "#SBATCH --mem=0"} <= set(lines)


def test_the_image_holds_what_its_container_is_started_with():
  job = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
  job = job["spec"]["replicatedJobs"][0]["template"]["spec"]
  (container,) = job["template"]["spec"]["containers"]
  lines = (LAUNCH / "Dockerfile").read_text().splitlines()
  steps = [line.split() for line in lines if line and line[0] != "#"]
  assert ["WORKDIR", container["workingDir"]] in steps
  copied = {}
  for *what, where in (step[1:] for step in steps if step[0] == "COPY"):
    copied |= {name: where.rstrip("/") for name in what}
  root = LAUNCH.parent
  assert all((root / name).exists() for name in copied)
  (path,) = re.findall(r"--config=(\S+)", " ".join(container["command"]))
  folder = path.split("/")[0]
  assert (root / path).exists() and copied[folder] == folder
  setup = configparser.ConfigParser()
  setup.read(root / "setup.cfg")
  # what installing reads
  named = setup["metadata"]["long_description"].removeprefix("file: ")
  for name in (named, setup["metadata"]["license_files"], "pyproject.toml"):
    assert copied[name] == "."
  (install,) = re.findall(r'pip install.*"\.\[(.*)\]"', "\n".join(lines))
  extras = set(install.split(","))
  assert {"train", "tpu"} <= extras <= set(setup["options.extras_require"])
  (command,) = (
    line.split(" = ")[0]
    for line in setup["options.entry_points"]["console_scripts"].split("\n")
    if line.endswith("cli.train:run")
  )
  assert container["command"][0] == command


@pytest.mark.parametrize("name", ["gke.yaml", "tpu_pod.sh", "slurm.sh"])
def test_a_launchers_example_is_a_run_that_needs_no_other(name):
  text = (LAUNCH / name).read_text()
  (path,) = re.findall(r"--config=(\S+)", text)
  (data,) = re.findall(r"--data=(\S+)", text)
  config = config_flag.read(str(LAUNCH.parent / path))
  assert not config.train.init
  sources = [source.path for source in config.latents.sources]
  assert [data.removeprefix("/mnt").removeprefix("/shared/")] == sources


def test_the_local_example_has_rows_for_all_its_devices():
  text = (LAUNCH / "local.sh").read_text()
  ((devices, processes, path),) = re.findall(
    r"^#   (?:DEVICES=(\d+) )?bash launch/local\.sh (\d+) --config=(\S+\.py)",
    text, re.MULTILINE,
  )  # fmt: skip
  (default,) = re.findall(r"\${DEVICES:-(\d+)}", text)
  config = config_flag.read(str(LAUNCH.parent / path))
  assert config.latents.rows % (int(devices or default) * int(processes)) == 0


def launched(tmp_path, script, stand_ins, **environment):
  """How a launcher ends, where programs stand for those it cannot start."""
  folder = tmp_path / "stand-ins"
  folder.mkdir()
  for name, program in stand_ins.items():
    (folder / name).write_text(f"#!/bin/bash\n{program}\n")
    (folder / name).chmod(0o755)
  return subprocess.run(
    ["bash", LAUNCH / script, "--config=a b.py"],
    env={"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(tmp_path)}
    | environment,
    capture_output=True, text=True,
  )  # fmt: skip


# of ssh to a host: what it is told to do, and what ssh is told after "--"
REMOTE = """cd
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case "$1" in --command=*) told="${1#--command=}" ;; esac
  shift
done
echo "${*:2}" >~/ssh_options
bash -c "$told\""""
POD = {"TPU": "pod", "ZONE": "zone", "PAUSE": "0"}


def on_the_host(home, place, program):
  """Puts a pyramid-train there."""
  (home / "pyramid_jax").mkdir()
  (home / place).mkdir(parents=True)
  command = home / place / "pyramid-train"
  command.write_text(f"#!/bin/bash\n{program}\n")
  command.chmod(0o755)


@pytest.mark.parametrize("place", ["pyramid_jax/.venv/bin", ".local/bin"])
def test_a_tpu_pods_hosts_find_what_is_installed_there(tmp_path, place):
  on_the_host(tmp_path, place, 'pwd\nprintf "%s\\n" "$@"')
  found = launched(tmp_path, "tpu_pod.sh", {"gcloud": REMOTE}, **POD)
  assert found.returncode == 0, found.stderr
  *said, last = found.stdout.splitlines()
  assert said == [
    str(tmp_path / "pyramid_jax"), "--distributed", "--stopped_code=143",
    "--max_starts=10", "--config=a b.py",
  ]  # fmt: skip
  assert last.startswith("launch/tpu_pod.sh: exit code 0 on ")
  # a host that dies closes no connection
  options = (tmp_path / "ssh_options").read_text()
  assert options == "-o ServerAliveInterval=15 -o ServerAliveCountMax=4\n"


@pytest.mark.parametrize(
  "codes, gcloud, ended",
  [
    ([143, 0], None, 0),  # SIGTERM, then the end
    ([3, 134, 0], None, 0),  # a peer died
    ([137, 0], None, 0),  # it was killed
    ([134] * 4, None, 134),  # RESTARTS is 2
    ([2, 0], None, 2),
    ([2, 0], 134, 2),  # a mistake on one host, another tells
    ([127, 0], None, 2),
  ],
)
def test_a_tpu_pod_starts_anew_unless_it_is_a_mistake(
  tmp_path, codes, gcloud, ended
):
  on_the_host(
    tmp_path, ".local/bin",
    "starts=$(cat ~/starts 2>/dev/null || echo 0)\n"
    "echo $((starts + 1)) >~/starts\n"
    f"codes=({' '.join(map(str, codes))})\nexit ${{codes[starts]}}",
  )  # fmt: skip
  program = REMOTE if gcloud is None else f"{REMOTE}\nexit {gcloud}"
  found = launched(
    tmp_path, "tpu_pod.sh", {"gcloud": program}, RESTARTS="2", **POD
  )
  assert found.returncode == ended
  starts = 1 if ended == 2 else min(len(codes), 3)
  assert (tmp_path / "starts").read_text() == f"{starts}\n"
  restarts = re.findall(r"exit code (\d+), restart (\d)", found.stderr)
  assert [int(n) for _, n in restarts] == [*range(1, starts)]


def test_a_tpu_pod_that_gcloud_does_not_find_is_not_asked_again(tmp_path):
  program = "echo asked >>~/asked; echo no such pod >&2; exit 1"
  found = launched(tmp_path, "tpu_pod.sh", {"gcloud": program}, **POD)
  assert found.returncode == 1 and found.stderr == "no such pod\n"
  assert (tmp_path / "asked").read_text() == "asked\n"


@pytest.mark.parametrize("given", [None, "0.5"])
@pytest.mark.parametrize("command", ["pyramid-train", "pyramid-encode"])
def test_slurm_tells_each_process_of_its_cores_and_memory(
  tmp_path, given, command
):
  environment = {"SLURM_CPUS_PER_TASK": "7", "COMMAND": command}
  if given:
    environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = given
  found = launched(
    tmp_path, "slurm.sh",
    {"srun": 'printf "%s\\n" "$XLA_PYTHON_CLIENT_MEM_FRACTION" "$@"'},
    **environment,
  )  # fmt: skip
  assert found.returncode == 0, found.stderr
  memory, *arguments = found.stdout.splitlines()
  assert memory == given or float(memory) == chips.GPU_SHARE
  assert "--cpus-per-task=7" in arguments
  more = ["--stopped_code=143", "--max_starts=10"]
  more = more if command == "pyramid-train" else []
  start = [command, "--distributed", *more, "--config=a b.py"]
  assert arguments[-len(start) :] == start


EXITED = "srun: error: node-1: {}: Exited with exit code {}"


@pytest.mark.parametrize(
  "messages, code, restarts, ended",
  [
    ([], 0, 0, 0),
    ([EXITED.format("tasks 0-7", 143)], 143, 3, "requeue 7"),  # SIGTERM
    ([EXITED.format("task 4", 3)], 3, 99, "requeue 7"),  # a peer died
    (
      ["srun: error: node-2: task 9: Killed", EXITED.format("task 4", 134)],
      137, 0, "requeue 7",
    ),
    ([EXITED.format("tasks 0-7", 143)], 143, 100, 143),
    ([EXITED.format("tasks 0-7", 2)], 2, 0, 2),  # a mistake
    (
      [EXITED.format("task 1", 2), "srun: error: node-2: tasks 8-15: Killed"],
      137, 0, 2,
    ),
  ],
)  # fmt: skip
def test_slurm_queues_a_job_anew_unless_it_is_done_or_a_mistake(
  tmp_path, messages, code, restarts, ended
):
  said = "\n".join(messages + ["0: of a process"])
  found = launched(
    tmp_path, "slurm.sh",
    {
      "srun": f"cat >&2 <<'END'\n{said}\nEND\necho trained\nexit {code}",
      "scontrol": 'echo "$@"',
    },
    SLURM_CPUS_PER_TASK="7", SLURM_JOB_ID="7",
    SLURM_RESTART_COUNT=str(restarts),
  )  # fmt: skip
  assert said in found.stderr
  out = found.stdout.splitlines()
  if ended == "requeue 7":
    assert (found.returncode, out) == (0, ["trained", ended])
  else:
    assert (found.returncode, out) == (ended, ["trained"])


@pytest.mark.parametrize("arguments", [[], ["two"], ["--config=a.py"]])
def test_the_local_script_asks_for_a_number_of_processes(arguments):
  result = subprocess.run(
    ["bash", str(LAUNCH / "local.sh"), *arguments],
    capture_output=True,
    text=True,
  )
  assert result.returncode == 2
  assert "is no number of processes; give it first" in result.stderr
