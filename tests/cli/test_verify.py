"""pyramid-verify says what agrees and ends accordingly."""

import types

import jax
import numpy as np
import pytest

from pyramid_jax.cli import mesh_flag
from pyramid_jax.config import ConfigError
from tests import commands, reference


def changed(name, path, **arrays):
  """A copy of a reference file with some arrays replaced or added."""
  with np.load(reference.path(name)) as file:
    np.savez(path, **{**{k: file[k] for k in file.files}, **arrays})
  return path


def verify(*arguments):
  """The command; flags come first."""
  return commands.run("verify", *arguments, files=True)


def test_files_that_agree_end_with_0_and_a_table(tmp_path):
  files = [reference.path(f"scheduler_{n}") for n in ("default", "stages4")]
  result = verify(f"table={tmp_path}/errors.md", *files)
  assert (result.code, result.err) == (0, "")
  assert "out/start_sigmas " in result.out and " ok\n" in result.out
  assert "scheduler_default: 55 of 55 arrays within the limits" in result.out
  assert result.out.endswith("2 of 2 files passed\n")
  table = (tmp_path / "errors.md").read_text().splitlines()
  assert table[2].startswith("| scheduler_default | 55 | `")


def test_a_difference_ends_with_1_and_is_named(tmp_path):
  sigmas = np.array([1.0, 0.8, 0.51])
  file = changed(
    "scheduler_default", tmp_path / "a.npz", **{"out/start_sigmas": sigmas}
  )
  result = verify("failures", file)
  assert result.code == 1
  lines = [x for x in result.out.splitlines() if x.endswith("FAILED")]
  assert len(lines) == 1 and lines[0].startswith("out/start_sigmas ")
  assert "54 of 55 arrays within the limits" in result.out
  assert verify("tolerance=0.1", file).code == 0


def test_what_was_not_compared_is_told(tmp_path):
  file = changed(
    "scheduler_default", tmp_path / "a.npz", **{"out/other": np.zeros(3)}
  )
  result = verify(file)
  assert result.code == 1 and "NOT COMPARED: out/other" in result.out


@pytest.mark.parametrize(
  "content, message",
  [
    (None, "does not exist"),
    (b"no archive", "is not a reference file"),
  ],
)
def test_a_file_that_cannot_be_read_ends_with_2(tmp_path, content, message):
  file = tmp_path / "a.npz"
  if content:
    file.write_bytes(content)
  good = reference.path("scheduler_default")
  result = verify(file, good)
  assert result.code == 2 and message in result.err
  assert "55 of 55" in result.out  # the others are compared


def test_weights_of_other_files_are_passed_over_and_nothing_is_no_success(
  tmp_path,
):
  weights = reference.path("vae_weights")
  result = verify(weights, reference.path("scheduler_default"))
  assert result.code == 0 and "1 of 1 files passed" in result.out
  with np.load(reference.path("vae_image")) as file:
    np.savez(tmp_path / "vae_weights.npz", **np.load(weights))
    np.savez(tmp_path / "a.npz", config=file["config"], other=np.zeros(1))
  result = verify(tmp_path / "a.npz")
  assert result.code == 1 and "NOTHING WAS COMPARED" in result.out


def test_a_mesh_of_more_devices_than_there_are_is_told(monkeypatch):
  there = jax.local_device_count()  # that of a CPU does not change any more
  asked = types.SimpleNamespace(mesh=["data=64", "tensor=2"])
  monkeypatch.setattr(mesh_flag, "F", asked)
  message = rf"^--mesh=data=64,tensor=2 needs 128 devices; there are {there}\."
  with pytest.raises(ConfigError, match=message):
    mesh_flag.get()


def test_contradicting_arrays_end_with_2(tmp_path):
  file = changed(
    "noise_train_full_T5", tmp_path / "a.npz", **{"in/latent": np.zeros((3, 4))}
  )
  result = verify(file)
  assert result.code == 2 and "of kind 'noise', cannot be run: " in result.err


def test_a_file_of_no_known_kind_ends_with_2(tmp_path):
  np.savez(tmp_path / "a.npz", config='{"what": 1}', x=np.zeros(2))
  assert "of kind 'unknown'; known are" in verify(tmp_path / "a.npz").err


def test_a_model_is_compared_on_a_mesh_with_another_attention():
  file = reference.path("mmdit_nointerp")
  result = verify("mesh=data=2,tensor=2", "attention=dense", file)
  assert result.code == 0, result.out + result.err
  result = verify("mesh=fsdp=-1", file)
  assert result.code == 2 and "axis=devices, each at least 1; " in result.err
  half = verify("dtype=bfloat16", file)
  assert half.code == 1 and "FAILED" in half.out
