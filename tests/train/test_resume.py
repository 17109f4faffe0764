"""Processes begin a run only where all of them see the same."""

import jax
import numpy as np
import pytest

from pyramid_jax.checkpoint import CheckpointError, Checkpoints
from pyramid_jax.config import Config, ConfigError
from pyramid_jax.train import resume


def test_processes_that_see_other_data_are_told(monkeypatch):
  plan = {"clips to train on": "24 (ab)", "clips held out": "6 (cd)"}

  def gather(*others):
    """Of three processes, two of which see `others`."""
    return lambda mine: np.stack([mine, *(mine ^ x for x in others)])

  monkeypatch.setattr(resume.multihost_utils, "process_allgather", gather(0, 0))
  resume._require_same_plan(plan)
  monkeypatch.setattr(resume.multihost_utils, "process_allgather", gather(0, 1))
  with pytest.raises(
    ConfigError,
    match=r"of 3 processes 2 see other data than process 0; process 0 sees "
    r"clips to train on: 24 \(ab\); clips held out: 6 \(cd\)\. Let all",
  ):
    resume._require_same_plan(plan)


class Steps:
  """Stands for checkpoints on a disk that shows a process one after another."""

  def __init__(self, *steps):
    self.folder, self.steps = "run/checkpoints", list(steps)

  @property
  def latest(self):
    return self.steps[0]

  def look_again(self):
    if len(self.steps) > 1:
      self.steps.pop(0)


def test_processes_that_see_other_checkpoints_are_told(monkeypatch):
  """By an exit code after which they are started anew: the disk may lag."""

  def see(*others):
    gather = lambda mine: np.array([mine, *([x, mine[1]] for x in others)])
    monkeypatch.setattr(resume.multihost_utils, "process_allgather", gather)

  monkeypatch.setattr(resume, "SEEN_WITHIN", 1.0)
  see(4, 4)
  resume._require_same_step(Steps(4))
  resume._require_same_step(Steps(None, 3, 4))
  see(3, -1)
  with pytest.raises(
    CheckpointError, match="process 0 step 4, process 1 step 3, process 2 none"
  ) as told:
    resume._require_same_step(Steps(4))
  assert told.value.exit_code == 3


def test_a_listing_has_what_another_process_has_saved(tmp_path):
  reader, writer = Checkpoints(tmp_path), []
  for step in (2, 3):
    writer.append(Checkpoints(tmp_path))
    writer[-1].save(step, {"x": {"y": np.ones(2)}}, Config())
    writer[-1].close()
  assert reader.latest is None
  reader.look_again()
  assert reader.latest == 3
  reader.close()


@pytest.mark.parametrize("shared", [True, False])
def test_a_workdir_of_each_hosts_own_is_told(monkeypatch, tmp_path, shared):
  """Process 1 looks for what process 0 has put there."""
  number, seen = 7, []
  probe = tmp_path / f".seen_by_all_{number}"

  def gather(mine):
    seen.append(int(mine))
    return np.array([1, mine])

  utils = resume.multihost_utils
  monkeypatch.setattr(resume, "SEEN_WITHIN", 0.1)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  monkeypatch.setattr(utils, "broadcast_one_to_all", lambda x: np.int32(number))
  monkeypatch.setattr(
    utils, "sync_global_devices", lambda name: shared and probe.touch()
  )
  monkeypatch.setattr(utils, "process_allgather", gather)
  if shared:
    resume._require_same_folder(tmp_path / "checkpoints")
  else:
    with pytest.raises(CheckpointError, match="is not that of 1; --workdir"):
      resume._require_same_folder(tmp_path / "checkpoints")
  assert seen == [shared]
