"""Measures a VAE: speed and memory by clip length, and what each loss gives.

  python benchmarks/vae.py --kept=docs/vae.json            # speed and memory
  python benchmarks/vae.py --released --kept=vae.json      # of the released VAE
  python benchmarks/vae.py --losses --work=runs/losses --kept=docs/vae.json \
    --lpips=vgg_lpips.pth --steps=460

A line of JSON for each case, which has a process of its own. With --kept they
are kept in that file, cases that it has are not run again, and the same name
with .md gets the tables. Sizes are those of configs/tiny.py:vae unless asked
otherwise. A training that was stopped continues. `--tiny` runs everything
small.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import runpy
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import children  # noqa: E402
import jax  # noqa: E402  the parent process asks for no device
import numpy as np  # noqa: E402
from accelerator import seconds  # noqa: E402

from pyramid_jax import config as c  # noqa: E402
from pyramid_jax import sharding  # noqa: E402
from pyramid_jax.models import vae as vae_lib  # noqa: E402
from pyramid_jax.models.pure import pure  # noqa: E402

LENGTHS = (17, 65, 257)
WINDOW = 16  # frames a chunk, as pyramid-encode has it
VARIANTS = {
  "pixels and KL": {},
  "LPIPS": {"perceptual": 0.1},
  "image discriminator": {"kind": "image"},
  "clip discriminator": {"kind": "clip"},
  "log-variance": {"log_variance": -2.0},
}


def cases(asked) -> list[dict]:
  """What is run, in order."""
  if asked.losses:
    wanted = [asked.only] if asked.only else list(VARIANTS)
    names = [n for n in wanted if n != "LPIPS" or asked.lpips]
    if len(names) < len(wanted):
      print(
        "LPIPS is left out: --lpips has to name the vgg_lpips.pth that the "
        'released code trains with, or "random" for random features.',
        file=sys.stderr,
      )
    return [
      {"part": "losses", "loss": name, "steps": asked.steps}
      | ({"lpips": asked.lpips} if name == "LPIPS" else {})
      for name in names
    ]
  side = 256 if asked.released else 64
  return [
    {"part": "speed", "way": way, "frames": frames, "side": side,
     "chunked": chunked, "released": asked.released}
    for way in ("encode", "decode")
    for chunked in (False, True)
    for frames in (LENGTHS[:2] if asked.tiny else LENGTHS)
  ]  # fmt: skip


def tiny_run() -> c.Config:
  """The VAE of configs/tiny.py."""
  made = runpy.run_path(str(ROOT / "configs" / "tiny.py"))["get_config"]
  return c.from_dict(c.Config, made("vae"))


def speed(case: dict, asked) -> dict:
  """Frames a second, and the memory of the compiled program."""
  sizes = c.VAEConfig() if case["released"] else tiny_run().vae
  if asked.tiny:
    sizes = dataclasses.replace(sizes, channels=(4,) * 4, groups=2)
  model = pure(lambda rngs: vae_lib.VAE(sizes, rngs=rngs))
  rng = np.random.default_rng(0)
  normal = lambda s: 0.02 * rng.standard_normal(s.shape, np.float32)
  params = jax.tree.map(normal, model.shapes)
  time_factor = 2 ** sum(sizes.down_time)
  side, frames = case["side"], case["frames"]
  window, shape = WINDOW, (1, frames, side, side, 3)
  if case["way"] == "decode":
    side //= 2 ** sum(sizes.down_space)
    frames = (frames - 1) // time_factor + 1
    window = WINDOW // time_factor
    shape = (1, frames, side, side, sizes.latent_channels)
  chunked = {
    "encode": vae_lib.encode_chunked, "decode": vae_lib.decode_chunked
  }[case["way"]]  # fmt: skip
  method = case["way"]
  if case["chunked"]:
    method = lambda vae, x: chunked(vae, x, window)
  params, x = jax.device_put((params, rng.standard_normal(shape, np.float32)))
  program = jax.jit(lambda params, x: model.apply(params, x, method=method))
  compiled = program.lower(params, x).compile()
  took = seconds(lambda: compiled(params, x), 3)["seconds"]
  return {
    "seconds": took,
    "frames_per_second": case["frames"] / took,
    "temporary_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
  }


def losses(case: dict, asked) -> dict:
  """Trains with one loss and measures on held-out clips."""
  from pyramid_jax.train import loop, vae_task

  work = pathlib.Path(asked.work)
  config = loss_config(case, asked, work)
  workdir = work / f"{case['loss'].replace(' ', '_')}_{case['steps']}"
  mesh = sharding.make_mesh(config.mesh)
  task = vae_task.make_task(config, mesh, workdir)
  start = time.perf_counter()
  loop.run(config, workdir, mesh, task)
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  scores = {}
  for line in map(json.loads, lines):
    scores |= {k: v for k, v in line.items() if k in SCORES}
  return {"seconds": time.perf_counter() - start, **scores}


SCORES = ("psnr", "ssim", "flicker", "flicker_original")


def loss_config(case: dict, asked, work: pathlib.Path) -> c.Config:
  """The run of configs/tiny.py:vae, shorter or longer, with another loss."""
  config, steps = tiny_run(), case["steps"]
  clips = max(steps // 4, 1)
  images, short = config.videos.phases
  phases = (
    dataclasses.replace(images, steps=steps - clips),
    dataclasses.replace(short, steps=clips),
  )
  changes = dict(VARIANTS[case["loss"]])
  kind = changes.pop("kind", "none")
  if changes.get("perceptual"):
    changes["lpips"] = lpips_file(case["lpips"], work)
  adversary = c.AdversaryConfig(
    kind, width=16, layers=2, dtype="float32", start=steps // 3,
    warmup=steps // 10, weight=0.1,
  )  # fmt: skip
  warmup = min(config.optimizer.warmup, clips // 2)
  return dataclasses.replace(
    config,
    videos=dataclasses.replace(
      config.videos, path=str(shapes_folder(work, asked.tiny)), phases=phases
    ),
    vae_loss=dataclasses.replace(
      config.vae_loss, adversary=adversary, **changes
    ),
    optimizer=dataclasses.replace(config.optimizer, warmup=warmup),
    train=dataclasses.replace(
      config.train, steps=steps, pictures=0, save_every=50
    ),
  )


def shapes_folder(work: pathlib.Path, tiny: bool) -> pathlib.Path:
  """The embedded dataset, rendered once."""
  from pyramid_jax.data import shapes_store

  sizes = dict(clips=16, heldout=2, frames=9) if tiny else {}
  return shapes_store.write(work / "shapes", shapes_store.ShapesConfig(**sizes))


def lpips_file(given: str, work: pathlib.Path) -> str:
  """The file that is named, or one of random weights in its layout."""
  if given != "random":
    return given
  import safetensors.numpy

  from pyramid_jax.convert.models import LPIPS_VGG

  path = work / "random_lpips.safetensors"
  work.mkdir(parents=True, exist_ok=True)
  if not path.exists():
    sizes = c.LPIPSConfig((16, 32, 64, 64, 64), "float32")
    weights = LPIPS_VGG.to_torch(sizes, LPIPS_VGG.make(sizes).init(0))
    weights = {k: np.ascontiguousarray(x) for k, x in weights.items()}
    safetensors.numpy.save_file(weights, path)
  return str(path)


def run(case: dict, asked) -> dict:
  """One case in this process."""
  device = jax.devices()[0]
  line = {
    "device": device.device_kind,
    "cores": os.cpu_count(),
    "jax": importlib.metadata.version("jax"),
    **case,
  }
  try:
    line |= {"speed": speed, "losses": losses}[case["part"]](case, asked)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    line["out_of_memory"] = str(error).splitlines()[0][:200]
  memory = device.memory_stats() or {}
  if "peak_bytes_in_use" in memory:
    line["peak_gib"] = memory["peak_bytes_in_use"] / 2**30
  return line


def document(lines: list[dict]) -> str:
  """The page of tables."""
  parts = {p: [x for x in lines if x["part"] == p] for p in ("speed", "losses")}
  text = "# The VAE, measured\n\nMade by `python benchmarks/vae.py`.\n"
  for line in lines:
    if line["part"] == "note":
      text += f"\n{line['note']}\n"
  if parts["speed"]:
    text += speed_tables(parts["speed"])
  if parts["losses"]:
    text += loss_table(parts["losses"])
  return text


def machine(line: dict) -> str:
  count = f"{line['cores']} cores, " if line["device"] == "cpu" else ""
  return f"{line['device']}, {count}JAX {line['jax']}"


def speed_tables(lines: list[dict]) -> str:
  """Throughput and memory by length, whole and in chunks."""
  first = lines[0]
  which = "the released sizes" if first["released"] else "configs/tiny.py"
  text = (
    f"\n## Speed and memory\n\nOne clip of {first['side']} x {first['side']} "
    f"pixels, the VAE of {which}, on {machine(first)}. Temporary memory is "
    "what the compiled program allocates beside its arguments and its result; "
    f"in chunks of {WINDOW} frames.\n"
  )
  for way in ("encode", "decode"):
    text += (
      f"\n| {way}: frames | whole: frames/s | MiB | in chunks: frames/s | MiB "
      "|\n|---|---|---|---|---|\n"
    )
    for frames in sorted({x["frames"] for x in lines}):
      row = [str(frames)]
      for chunked in (False, True):
        found = [
          x
          for x in lines
          if (x["way"], x["frames"], x["chunked"]) == (way, frames, chunked)
        ]
        row += figures(found[0]) if found else ["", ""]
      text += "| " + " | ".join(row) + " |\n"
  return text


def figures(line: dict) -> list[str]:
  if "out_of_memory" in line:
    return ["out of memory", ""]
  return [f"{line['frames_per_second']:.1f}", f"{line['temporary_mib']:.0f}"]


def loss_table(lines: list[dict]) -> str:
  """A row for each loss."""
  first = lines[0]
  random = any(x.get("lpips") == "random" for x in lines)
  text = (
    f"\n## Losses\n\nThe VAE of configs/tiny.py on rendered shapes, "
    f"{first['steps']} steps each (a quarter of them on clips of 9 frames), "
    "with pixels and KL and one more term, on "
    f"{machine(first)}. One run each: differences of a few tenths of a dB mean "
    "nothing. A discriminator starts after a third of the steps and counts in "
    "full a tenth later. Flicker is the mean absolute difference of "
    "neighbouring frames; that of the held-out clips themselves is "
    f"{first['flicker_original']:.4f}.\n"
  )
  if random:
    text += (
      "\n**LPIPS here has random weights** (the released file's layout, "
      "channels 16, 32, 64, 64, 64): a distance of random features, since "
      "vgg_lpips.pth was not at hand. It says nothing of the trained one.\n"
    )
  text += "\n| loss | PSNR | SSIM | flicker | time |\n|---|---|---|---|---|\n"
  for x in lines:
    plus = x["loss"] if x["loss"] == next(iter(VARIANTS)) else f"+ {x['loss']}"
    plus += " (random)" if x.get("lpips") == "random" else ""
    text += (
      f"| {plus} | {x['psnr']:.2f} dB | {x['ssim']:.3f} | {x['flicker']:.4f} "
      f"| {x['seconds']:.0f} s |\n"
    )
  return text


def keep(path: pathlib.Path, line: dict):
  """Adds a case to the kept ones and writes the tables again."""
  kept = load(path) + [line]
  path.parent.mkdir(parents=True, exist_ok=True)
  for name, text in (
    (path, json.dumps(kept, indent=1) + "\n"),
    (path.with_suffix(".md"), document(kept)),
  ):
    beside = name.with_name(f".{name.name}.partial")
    beside.write_text(text)
    os.replace(beside, name)


def load(path: pathlib.Path) -> list[dict]:
  return json.loads(path.read_text()) if path.exists() else []


def parse() -> argparse.Namespace:
  flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  flags.add_argument("--kept", type=pathlib.Path, help="JSON file of figures")
  flags.add_argument("--released", action="store_true", help="released sizes")
  flags.add_argument("--losses", action="store_true", help="train with each")
  flags.add_argument("--only", choices=VARIANTS, help="one of the losses")
  flags.add_argument("--work", help="folder of the trainings of --losses")
  flags.add_argument("--steps", type=int, default=460, help="of a training")
  flags.add_argument("--note", help="a sentence for the page, then done")
  flags.add_argument("--lpips", help='weights of LPIPS, or "random"')
  flags.add_argument("--tiny", action="store_true", help="small sizes")
  flags.add_argument("--case", type=json.loads, help="one case, as JSON")
  asked = flags.parse_args()
  if asked.losses and not asked.work:
    flags.error("--losses needs --work, a folder for its trainings.")
  if asked.note and not asked.kept:
    flags.error("--note needs --kept, the figures that it is about.")
  return asked


def main() -> int:
  asked = parse()
  if asked.case:
    print(json.dumps(run(asked.case, asked)), flush=True)
    return 0
  if asked.note:
    keep(asked.kept, {"part": "note", "note": asked.note})
    return 0
  failed = 0
  for case in cases(asked):
    kept = load(asked.kept) if asked.kept else []
    if any(case.items() <= line.items() for line in kept):
      continue
    command = [sys.executable, *sys.argv, "--case", json.dumps(case)]
    code, printed = children.run(command)
    if code:
      failed += 1
      continue
    *_, line = printed.splitlines()  # a training says more
    print(line, flush=True)
    if asked.kept:
      keep(asked.kept, json.loads(line))
  return int(failed > 0)


if __name__ == "__main__":
  sys.exit(main())
