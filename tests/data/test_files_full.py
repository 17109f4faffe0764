"""A manifest of a million lines is listed in seconds."""

import json
import subprocess
import sys

LISTING = """
import resource, sys, time
from pyramid_jax.data.files import find_files
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
items, left_out = find_files(sys.argv[1])
seconds = time.process_time() - start
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(items), left_out[0].where, len(left_out), seconds, most - before)
"""


def test_a_million_lines_with_one_bad_one_take_seconds(tmp_path, capsys):
  path, bad = tmp_path / "list.jsonl", 654_321
  with path.open("w") as file:
    for i in range(1, 1_000_001):
      entry = {"video": f"clips/{i:07d}.mp4", "text": f"a cat number {i}"}
      file.write("{broken\n" if i == bad else json.dumps(entry) + "\n")
  done = subprocess.run(
    [sys.executable, "-c", LISTING, path],
    capture_output=True,
    text=True,
    check=True,
  )
  count, where, wrong, seconds, kib = done.stdout.split()
  assert (count, where, wrong) == ("999999", f"list.jsonl:{bad}", "1")
  with capsys.disabled():
    print(f"\n{float(seconds):.1f} s, {int(kib) / 1024:.0f} MiB", end="")
  assert int(kib) < 800 * 1024  # about 0.5 KiB a line
  assert float(seconds) < 60  # of a core; several times what it takes
