#!/usr/bin/env python
"""pyramid-train that writes down what it reads, for `launch/local.sh`.

Each process has a file in the folder $TAKEN; a line is a batch: the number of
each row or clip in it, and a digest of all that it holds.
"""

import hashlib
import json
import os
import pathlib

import numpy as np

from pyramid_jax import sharding
from pyramid_jax.cli import train

FOLDER = pathlib.Path(os.environ["TAKEN"])
place_batch = sharding.place_batch


def recorded(mesh, batch, rows):
  """`place_batch`, after a line about the batch; held-out clips have none."""
  if isinstance(batch, dict):
    digests = {}
    for i, number in enumerate(batch["index"]):
      parts = [np.ascontiguousarray(batch[name][i]) for name in sorted(batch)]
      found = hashlib.sha256(b"".join(part.tobytes() for part in parts))
      digests[int(number)] = found.hexdigest()
    with (FOLDER / f"{os.getpid()}.jsonl").open("a") as file:
      file.write(json.dumps(digests) + "\n")
  return place_batch(mesh, batch, rows)


if __name__ == "__main__":
  FOLDER.mkdir(parents=True, exist_ok=True)
  sharding.place_batch = recorded
  train.run()
