"""What accelerator.py counts, keeps and leaves behind."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.test_benchmarks_full import SCRIPTS, run


def test_a_call_that_compiles_is_not_timed(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import accelerator

  sizes = iter([2, 2, 3, 3, 3])
  add = accelerator.jax.jit(lambda x: x + 1)
  found = accelerator.seconds(lambda: add(np.ones(next(sizes))), 3)
  assert next(sizes, None) is None and found["most"] < 10
  sizes = iter(range(4, 99))
  with pytest.raises(RuntimeError, match="4 of 4 calls to time compiled"):
    accelerator.seconds(lambda: add(np.ones(next(sizes))), 3)


def test_memory_that_others_have_is_no_want_of_memory(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import accelerator_cases as script

  h100, gib = script.chips.CHIPS["h100"], script.chips.GIB
  share = script.chips.GPU_SHARE * h100.hbm
  told = lambda limit, pool: script.taken_by_others(
    {"bytes_limit": limit, "pool_bytes": pool}, h100
  )
  assert told(share, share) == told(0.99 * share, 0.99 * share) == ""
  assert re.search(r"gave 10\.0 of 7\d\.\d GiB: ano", told(share, 10 * gib))
  assert "was allowed 20.0 GiB of the device, not 7" in told(*[20 * gib] * 2)
  assert script.taken_by_others({}, None) == ""
  monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  assert told(share, 10 * gib) == ""  # it takes what it needs


def test_what_is_kept_is_not_measured_again(tmp_path):
  kept = tmp_path / "measured.jsonl"
  arguments = ("attention", "--tiny", f"--kept={kept}",
               f"--cache={tmp_path}/cache")  # fmt: skip
  result = run(*arguments)
  assert result.returncode == 0, result.stderr
  assert kept.read_text() == result.stdout
  first, second, third = kept.read_text().splitlines(keepends=True)
  failed = json.dumps(json.loads(second) | {"failed": "for some reason"})
  other = json.loads(third)
  other["versions"]["jax"] = "0.1"
  kept.write_text(f"{first}{failed}\n{json.dumps(other)}\n")
  result = run(*arguments)
  again = [json.loads(x) for x in result.stdout.splitlines()]
  settings = [(x["attention"], x["dtype"]) for x in again]
  assert settings == [("xla", "bfloat16"), ("auto", "float32")]
  assert len(kept.read_text().splitlines()) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_case_does_not_outlive_who_started_it(tmp_path, number):
  program = (
    f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import children; "
    "children.run(['sh', '-c', 'echo $$ >pid; exec sleep 600'])"
  )
  parent = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
  while not (file := tmp_path / "pid").exists() or not file.read_text():
    assert parent.poll() is None
    time.sleep(0.01)
  child = int(file.read_text())
  parent.send_signal(number)
  assert parent.wait(30) != 0
  assert not pathlib.Path(f"/proc/{child}").exists()
