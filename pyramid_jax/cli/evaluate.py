"""pyramid-evaluate: does a model show what captions of shapes say?

  pyramid-evaluate --workdir=runs/dit --prompts=heldout --n=200 --out=runs/eval
  pyramid-evaluate --clips=quickstart/samples --out=runs/eval
  pyramid-evaluate --vae=runs/vae --shapes=runs/shapes --out=runs/limit
  pyramid-evaluate --truth --shapes=runs/shapes --n=2000 --out=runs/truth

Generates clips of held-out captions of the embedded dataset, reads them by
image analysis and compares. A clip that exists is not generated again. OUT gets
clips/, results.json, results.md and sheet.png. With a VAE and no workdir the
clips are the held-out ones, encoded and decoded: what a model on its latents
can reach. With --truth they are read as they were drawn: how often the reading
itself is right.
"""

import pathlib

from absl import flags

from pyramid_jax.cli import app, compilation, sampler_flags
from pyramid_jax.config import ConfigError

F = flags.FLAGS
flags.adopt_module_key_flags(sampler_flags)
flags.adopt_module_key_flags(compilation)
flags.DEFINE_string("workdir", None, "Workdir of pyramid-train.")
flags.DEFINE_string("clips", None, "Folder of clips to score as they are.")
flags.DEFINE_string(
  "shapes", None, "Embedded dataset; by default the one that the run names."
)
flags.DEFINE_bool("truth", False, "Score held-out clips as they were drawn.")
flags.DEFINE_string("prompts", "heldout", "'heldout', or a file, one a line.")
flags.DEFINE_integer("n", 64, "Clips.", lower_bound=1)
flags.DEFINE_string("out", None, "Folder of the results.")
flags.DEFINE_integer(
  "given", 0, "Frames of the true clip to go on from. 1: from an image, 9 and "
  "more: a continuation. Only the later frames are scored.", lower_bound=0,
)  # fmt: skip
flags.DEFINE_integer("seed", 0, "Clip i draws from (seed, i).")
flags.DEFINE_integer("batch", 8, "Clips generated together.", lower_bound=1)
flags.DEFINE_integer(
  "workers", 0, "Processes that read clips; 0: one for each core.",
  lower_bound=0,
)  # fmt: skip


def main():
  """Generates what is missing, scores, prints the table."""
  if (F.clips or F.truth) and (F.workdir or F.vae) or F.clips and F.truth:
    raise ConfigError("give one of --workdir, --vae, --clips and --truth.")
  limit = F.vae and not F.workdir
  needs = "shapes" if limit or F.truth else "workdir"
  app.require("out", *([] if F.clips else [needs]))
  if not F.workdir:
    sampler_flags.refuse("prompts", "seed", *(["n"] if F.clips else []))
  from pyramid_jax.data import workers
  from pyramid_jax.evals import shapes_files, shapes_run
  from pyramid_jax.evals.shapes_score import Seen
  from pyramid_jax.generate import export

  out = pathlib.Path(F.out)
  dataset = shapes_run.Dataset(F.shapes) if F.shapes else None
  if F.truth:
    settings = {"truth": F.shapes, "given": F.given}
    records = shapes_run.score_truth(dataset, F.n, F.given)
    frames_of = lambda i: dataset.question(i).truth
    print(shapes_run.report(out, frames_of, settings, records))
    return
  if F.clips:
    paths, questions = shapes_run.list_clips(F.clips), None
    if not paths:
      raise ConfigError(f"--clips={F.clips} holds no mp4 file.")
    settings = {"clips": F.clips}
  elif limit:
    paths, questions, settings = reconstruct(dataset, out)
  else:
    dataset = dataset or shapes_run.dataset_of(F.workdir)
    paths, questions, settings = generate(dataset, out)
  seen = dataset.seen if dataset else Seen()
  trained = dataset.frames if dataset else None
  records = shapes_files.score_files(
    paths, seen, trained, F.given, questions, F.workers or workers.cores()
  )
  frames_of = lambda i: export.read_mp4(paths[i])[0]
  print(shapes_run.report(out, frames_of, settings, records))


def generate(dataset, out: pathlib.Path):
  """Clips of the prompts, those that are there already among them."""
  programs = compilation.use_cache()
  from pyramid_jax.evals import shapes_run

  if F.prompts == "heldout":
    questions = dataset.heldout(F.n)
  else:
    questions = shapes_run.read_prompts(F.prompts, F.n)
  pipeline = sampler_flags.load(F.workdir)
  changes = sampler_flags.changes(pipeline.config.generate.fps)
  settings = shapes_run.settings_of(
    pipeline, pipeline.options(**changes), F.workdir,
    prompts=F.prompts, seed=F.seed, weights=F.weights, given=F.given,
  )  # fmt: skip
  shapes_run.begin(out, settings)
  paths = shapes_run.generate_missing(
    pipeline, questions, out / "clips", seed=F.seed, batch=F.batch,
    given=F.given, **changes,
  )  # fmt: skip
  print(f"{pipeline.phases}\n{programs}")
  return paths, questions, settings


def reconstruct(dataset, out: pathlib.Path):
  """Held-out clips as the VAE gives them back, those that are there too."""
  programs = compilation.use_cache()
  from pyramid_jax import sharding
  from pyramid_jax.config import MeshConfig
  from pyramid_jax.evals import shapes_run
  from pyramid_jax.generate.trained_vae import TrainedVAE

  vae = TrainedVAE.load(F.vae, sharding.make_mesh(MeshConfig()))
  settings = {
    "vae": vae.path, "fingerprint": vae.fingerprint, "given": F.given
  }  # fmt: skip
  shapes_run.begin(out, settings)
  questions = dataset.heldout(F.n)
  paths = shapes_run.reconstruct_missing(
    vae, questions, out / "clips", batch=F.batch
  )
  print(programs)
  return paths, questions, settings


def run():
  """Entry point."""
  app.run(main, continues=lambda: bool(F.workdir))


if __name__ == "__main__":
  run()
