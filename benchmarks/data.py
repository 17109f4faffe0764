"""How fast rows are planned, packed and loaded: makes docs/data.md and .png.

  python benchmarks/data.py              # all of it, and writes the document
  python benchmarks/data.py --simulate   # only the plan of 10 million clips
  python benchmarks/data.py --tiny       # everything on tiny sizes, in seconds

A line of JSON for each measurement. Datasets are made here: lengths alone for
the plan, random latents of full size (under 1 GB, removed again) for rows.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import runpy
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import grain  # noqa: E402
import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402
from grain import experimental as packers  # noqa: E402

from pyramid_jax.config import Config, Source, from_dict  # noqa: E402
from pyramid_jax.cost import chips, workload  # noqa: E402
from pyramid_jax.data import latents, pipeline  # noqa: E402
from pyramid_jax.data.latent_writer import LatentWriter, split_ids  # noqa: E402
from pyramid_jax.data.latents import Lengths, Metadata, NullPrompt  # noqa: E402
from pyramid_jax.data.packing import Planner  # noqa: E402
from pyramid_jax.data.rows import TokenSpec  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]
STAGES = ("image", "384p_2s", "384p_5s", "768p")
# of stored clips: latent height and width, least and most latent frames
STORED = {
  "image": (64, 64, 1, 1),
  "384p_2s": (48, 80, 7, 16),
  "384p_5s": (48, 80, 7, 16),
  "768p": (96, 160, 16, 31),
}
BINS = 64  # of grain's packer
MFU, CORES, PER_HOST = 0.45, 8, 4  # of one H100; chips of a v5p host
CLIPS, FAR = 10_000_000, 10**8  # simulated clips; the row that is sought


def config_of(stage: str, tiny: bool = False) -> Config:
  """A stage of the curriculum of the 2 B MM-DiT."""
  made = runpy.run_path(str(ROOT / "configs" / "curriculum.py"))
  config = from_dict(Config, made["get_config"](f"mmdit_{stage}"))
  data = dataclasses.replace(config.latents, window=128) if tiny else None
  return dataclasses.replace(config, latents=data) if tiny else config


def planner_of(stage: str, tiny: bool) -> Planner:
  """The plan of a stage on clips as pyramid-plan assumes them."""
  config = config_of(stage, tiny)
  data = config.latents
  stores = [
    workload.open_store(dataclasses.replace(s, path=""), config, i)
    for i, s in enumerate(data.sources)
  ]
  return Planner(stores, data, config.flow, config.model.patch, config.seed)


def packing(stage: str, tiny: bool) -> dict:
  """Fill and speed of the plan, and of grain's packer on the same samples."""
  count = 2 if tiny else 8
  planner = planner_of(stage, tiny)
  start = time.process_time()
  rows = planner.window_rows
  opening = time.process_time() - start
  start = time.process_time()
  windows = [planner.window(w) for w in range(count)]
  seconds = time.process_time() - start
  samples = sum(len(w.samples.latent) for w in windows)
  valid = sum(
    int(w.samples.latent.sum() + w.samples.text.sum()) for w in windows
  )
  data = planner.config
  tokens = data.latent_tokens + data.text_tokens
  lengths = [
    (int(n), int(m))
    for w in windows
    for n, m in zip(w.samples.latent, w.samples.text, strict=True)
  ]
  np.random.default_rng(0).shuffle(lengths)
  other, other_seconds = grain_rows(lengths, data)
  return {
    "start_seconds": opening,
    "window_rows": rows,
    "segments_a_row": samples / sum(map(len, windows)),
    "fill": valid / (tokens * sum(map(len, windows))),
    "samples_per_second": samples / seconds,
    "left_out": sum(w.left_out for w in windows),
    "grain_fill": valid / (tokens * other),
    "grain_samples_per_second": samples / other_seconds,
  }


def grain_rows(lengths, data) -> tuple[int, float]:
  """Rows and CPU seconds of grain's best fit; samples are flags of a byte."""
  source = grain.MapDataset.source(lengths).map(
    lambda size: {
      "latent": np.ones(size[0], np.int8), "text": np.ones(size[1], np.int8)
    }
  )  # fmt: skip
  packed = packers.BestFitPackIterDataset(
    source.to_iter_dataset(grain.ReadOptions(num_threads=0)),
    length_struct={"latent": data.latent_tokens, "text": data.text_tokens},
    num_packing_bins=BINS,
    max_sequences_per_bin=data.segments,
  )
  start = time.process_time()
  rows = sum(1 for _ in packed)
  return rows, time.process_time() - start


def write_store(path: pathlib.Path, stage: str, tiny: bool):
  """A store of random latents and prompts, as long as the stage's."""
  height, width, least, most = STORED[stage]
  count, text, pooled = (8, 16, 8) if tiny else (24, 4096, 2048)
  if most == 1 and not tiny:
    count *= 16  # a row holds a dozen
  if tiny:
    height, width, least, most = 16, 16, min(least, 2), min(most, 4)
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape, np.float32)
  metadata = Metadata(
    "random", "random", 16, text, pooled, text_dtype="bfloat16"
  )
  null = NullPrompt(np.zeros((1, text), ml_dtypes.bfloat16), normal(pooled))
  writer = LatentWriter(
    path, metadata, null, split_ids(list(map(str, range(count))), 8)
  )
  for index in writer.missing():
    with writer.shard(index) as shard:
      for id in writer.shards[index]:
        frames = int(rng.integers(least, most, endpoint=True))
        tokens = int(np.clip(rng.normal(*workload.PROMPT), 8, 128))
        shard.add(
          {
            "id": id, "caption": "",
            "latent": normal(frames, height, width, 16),
            "text": normal(tokens, text), "pooled": normal(pooled),
            "frames": 8 * frames - 7, "height": 8 * height, "width": 8 * width,
          }
        )  # fmt: skip
  writer.finish()
  return latents.open_store(path)


def rows(stage: str, tiny: bool) -> dict:
  """Rows a second from stored latents: a core's, threads', processes'."""
  config = config_of(stage, tiny)
  with tempfile.TemporaryDirectory() as folder:
    store = write_store(pathlib.Path(folder) / "store", stage, tiny)
    data = dataclasses.replace(
      config.latents, sources=(Source(folder),), rows=2
    )
    spec = TokenSpec.of(config.flow, config.model)
    make = lambda **changes: Planner(
      [store], dataclasses.replace(data, **changes), config.flow, spec.patch, 0
    )
    plan, count = make(), 2 if tiny else 24
    loader = pipeline.Rows([store], plan, spec)
    loader[0]  # plans the window
    cpu = time.process_time()
    for n in range(1, 1 + count):
      row = loader[n]
    cpu = time.process_time() - cpu
    read = [
      len(store.records[p.sample]) for n in range(1, 1 + count)
      for p in plan.row(n)
    ]  # fmt: skip
    loaded = {}
    for workers in (0, 2) if tiny else (0, 1, 2):
      batches = pipeline.batches([store], make(workers=workers), spec)
      next(batches)  # starts what loads
      for _ in range(0 if tiny else 6):  # and what it has ahead
        next(batches)
      start, taken = time.perf_counter(), 1 if tiny else 8
      for _ in range(taken):
        next(batches)
      loaded[workers] = data.rows * taken / (time.perf_counter() - start)
      batches.close()
  return {
    "rows_per_second_a_core": count / cpu,
    "row_bytes": sum(x.nbytes for x in row.values()),
    "read_bytes_a_row": sum(read) / count,
    "records_a_row": len(read) / count,
    "rows_per_second_by_workers": loaded,
    "peak_bytes": peak(),
  }


def need(stage: str, tiny: bool) -> dict:
  """Rows a second that a device takes: one H100, and v5p-128 by the host."""
  del tiny
  config = config_of(stage)
  h100, v5p = chips.CHIPS["h100"], chips.target("v5p:4x4x4")
  found = workload.measure(config, h100.tile)
  row = workload.model_flops(config, found) / config.latents.rows
  pod = v5p.devices * v5p.chip.peak * MFU / row
  return {
    "flops_a_row": row,
    "h100_rows_per_second": h100.peak * MFU / row,
    "v5p_rows_per_second_a_host": pod / (v5p.devices / PER_HOST),
  }


def simulate(stage: str, tiny: bool) -> dict:
  """Plans ten million clips from lengths alone, and seeks a far row."""
  config = config_of(stage, tiny)
  count, far = (20_000, 10**6) if tiny else (CLIPS, FAR)
  rng = np.random.default_rng(0)
  images = count // 4
  before = resident()
  stores = [
    simulated(rng, count - images, 7.0),
    simulated(rng, images, 0.0),
  ]
  lengths = resident() - before
  start = time.process_time()
  planner = Planner(stores, config.latents, config.flow, config.model.patch, 0)
  planner.row(0)
  opening = time.process_time() - start
  memory = resident() - before - lengths
  start = time.process_time()
  planner.row(far)
  seek = time.process_time() - start
  windows = range(2, 4 if tiny else 18)
  start = time.process_time()
  samples = sum(len(planner.window(w).samples.latent) for w in windows)
  seconds = time.process_time() - start
  return {
    "clips": count,
    "lengths_bytes": lengths,
    "plan_bytes": memory,
    "start_seconds": opening,
    "row": far,
    "seek_seconds": seek,
    "window_seconds": seconds / len(windows),
    "samples_per_second": samples / seconds,
    "seconds_by_planning_all_before": far / planner.window_rows
    * seconds / len(windows),
    "fill": planner.fill(list(windows)[:2]),
    "left_out": sum(planner.window(w).left_out for w in windows),
  }  # fmt: skip


def simulated(rng, count: int, seconds: float):
  """Lengths of 384p clips about `seconds` long, 2 to 5 s of each; or images."""
  frames = np.ones(count, np.int32)
  if seconds:
    drawn = np.exp(rng.normal(np.log(seconds), 0.7, count))
    frames = 1 + (np.clip(drawn, 2, 5) * 24).astype(np.int32) // 8
  wide = rng.random(count) < 0.8
  text = np.exp(rng.normal(4.0, 0.5, count)).astype(np.int32)
  return workload.AssumedStore(
    Lengths(
      frames=frames,
      height=np.where(wide, 48, 80).astype(np.int32),
      width=np.where(wide, 80, 48).astype(np.int32),
      text=np.clip(text, 4, 128),
    ),
    NullPrompt(np.zeros((1, 1)), np.zeros(1)),
    f"simulated {count}",
  )


def resident() -> int:
  """Bytes of memory that this process holds."""
  pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
  return int(pages) * resource.getpagesize()


def peak() -> int:
  """The most it ever held."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


PARTS = {
  **{("packing", stage): packing for stage in STAGES},
  **{("need", stage): need for stage in STAGES},
  **{("rows", stage): rows for stage in STORED},
  ("simulate", "384p_5s"): simulate,
}


def main() -> int:
  """Measures every part in a process of its own; then writes the document."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--tiny", action="store_true")
  parser.add_argument("--simulate", action="store_true")
  parser.add_argument("--part", help="PART:STAGE, alone")
  given = parser.parse_args()
  if given.part:
    part, stage = given.part.split(":")
    found = PARTS[part, stage](stage, given.tiny)
    print(json.dumps({"part": part, "stage": stage, **found}), flush=True)
    return 0
  found = []
  for part, stage in PARTS:
    if given.simulate and part != "simulate":
      continue
    command = [sys.executable, __file__, f"--part={part}:{stage}"]
    result = subprocess.run(
      command + ["--tiny"] * given.tiny, stdout=subprocess.PIPE, text=True
    )
    if result.returncode:
      return 1
    print(result.stdout, end="", flush=True)
    found.append(json.loads(result.stdout.splitlines()[-1]))
  if not given.tiny and not given.simulate:
    from data_document import write

    write(found, ROOT / "docs", MFU, CORES, BINS)
  return 0


if __name__ == "__main__":
  sys.exit(main())
