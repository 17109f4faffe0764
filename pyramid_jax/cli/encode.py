"""pyramid-encode: videos and images with captions to stored latents.

  pyramid-encode --videos=DIR_OR_MANIFEST --config=configs/tiny.py \\
    --vae=runs/vae --out=latents

Run again after an interruption, it continues; also on another number of hosts,
on each of which the same command runs with --distributed. With --inspect it
only looks at the files, see docs/inputs.md.
"""

from absl import flags

from pyramid_jax.cli import app, compilation, processes
from pyramid_jax.cli import config as config_flag

F = flags.FLAGS
for name in ("config", "compilation_cache", *processes.NAMES):
  flags.declare_key_flag(name)
flags.DEFINE_string(
  "videos",
  None,
  "Folder of videos and images, JSON-lines manifest, or dataset; "
  "tfds:NAME or tfds:NAME:VERSION for one of TFDS.",
)
flags.DEFINE_string("vae", None, "Workdir of the VAE's training.")
flags.DEFINE_string("out", None, "Folder of the stored latents.")
flags.DEFINE_string("split", "train", "Of a TFDS dataset.")
flags.DEFINE_string("data_dir", None, "Where TFDS datasets lie prepared.")
flags.DEFINE_integer(
  "shard", 64, "Clips a shard; what a kill can cost.", lower_bound=1
)
flags.DEFINE_integer("threads", 2, "Threads that decode.", lower_bound=1)
flags.DEFINE_bool(
  "inspect", False, "Write a contact sheet and a table of the files to --out."
)
flags.DEFINE_integer("shown", 60, "Clips on the contact sheet.", lower_bound=1)


def main():
  """Checks the flags, loads the encoders and runs."""
  app.require("config", "videos", *([] if F.inspect else ["vae"]), "out")
  config = config_flag.get()
  # here, so that mistakes in flags are told before JAX is imported
  from pyramid_jax.data import folders, inspection, sources

  folders.require_apart(F.videos, F.out)
  source = F.videos, config.encode, F.split, F.data_dir
  if F.inspect:
    clips = sources.open_clips(*source)
    print(inspection.inspect_clips(clips, F.out, F.shown, F.threads))
    return
  folders.require_room(F.out)
  processes.start(preemption=False)
  programs = compilation.use_cache()
  import jax

  from pyramid_jax import sharding
  from pyramid_jax.data import encode
  from pyramid_jax.data.latent_writer import LatentWriter, split_ids
  from pyramid_jax.data.sizes import check_frames, check_size
  from pyramid_jax.generate.encoders import load_encoders

  clips = sources.open_clips(*source)
  for height, width in clips.sizes:
    check_size(height, width, config.flow, config.model, config.vae)
  check_frames(clips.max_frames, config.flow, config.vae)
  mesh = sharding.make_local_mesh(config.mesh)
  encoders = load_encoders(config, F.vae, mesh)
  writer = LatentWriter(
    F.out, encoders.metadata, encoders.null, split_ids(clips.ids, F.shard),
    encode.stored_settings(config.encode), F.shard,
  )  # fmt: skip
  complete = writer.complete
  encode.encode_clips(
    clips, writer, encoders.encode_video, encoders.encode_text,
    batch=config.encode.batch, threads=F.threads,
    process=jax.process_index(), processes=jax.process_count(),
  )  # fmt: skip
  if jax.process_index() > 0:
    processes.wait_until(lambda: writer.complete)
    return
  processes.wait_until(lambda: not writer.missing())
  summary = encode.finish(
    clips, writer, config.encode.fps, config.flow, config.model.patch
  )
  if complete:
    print(f"{F.out} was already complete")
  print(summary or "", f"latents: {F.out}", programs, sep="\n")


def run():
  """Entry point."""
  app.run(main, config_flag.check, continues=lambda: not F.inspect)


if __name__ == "__main__":
  run()
