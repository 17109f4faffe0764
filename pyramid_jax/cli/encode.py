"""pyramid-encode: videos and images with captions to stored latents.

  pyramid-encode --videos=DIR_OR_MANIFEST --config=configs/tiny.py \\
    --vae=runs/vae --out=latents

Run again after an interruption, it continues.
"""

import functools
import pathlib

from absl import flags

from pyramid_jax.cli import app
from pyramid_jax.cli import config as config_flag

F = flags.FLAGS
flags.declare_key_flag("config")
flags.DEFINE_string(
  "videos",
  None,
  "Folder of videos and images, JSON-lines manifest, or dataset.",
)
flags.DEFINE_string("vae", None, "Workdir of the VAE's training.")
flags.DEFINE_string("out", None, "Folder of the stored latents.")
flags.DEFINE_integer(
  "shard", 64, "Clips a shard; what a kill can cost.", lower_bound=1
)
flags.DEFINE_integer("threads", 2, "Threads that decode.", lower_bound=1)


def main():
  """Checks the flags, loads the encoders and runs."""
  app.require("config", "videos", "vae", "out")
  config = config_flag.get()
  # here, so that mistakes in flags are told before JAX is imported
  from pyramid_jax import sharding
  from pyramid_jax.convert import text_folder
  from pyramid_jax.data import encode, latents
  from pyramid_jax.data.latent_writer import LatentWriter, split_ids
  from pyramid_jax.data.sizes import check_frames, check_size
  from pyramid_jax.generate.trained_vae import TrainedVAE

  clips = encode.open_clips(F.videos, config.encode)
  for height, width in clips.sizes:
    check_size(height, width, config.flow, config.model, config.vae)
  check_frames(clips.max_frames, config.flow, config.vae)
  mesh = sharding.make_mesh(config.mesh)
  vae = TrainedVAE.load(F.vae, mesh)
  text = text_folder.from_config(config.text)
  metadata = latents.Metadata(
    vae_fingerprint=vae.fingerprint,
    text_fingerprint=text.fingerprint,
    latent_channels=vae.config.latent_channels,
    text_dim=text.text_dim,
    pooled_dim=text.pooled_dim,
    statistics=vae.statistics,
    text_dtype=config.text.dtype,
    text_kind=config.text.kind,
    text_max_tokens=config.text.max_tokens,
    vae_path=vae.path,
    text_path=str(pathlib.Path(config.text.path).absolute()),
  )
  null = latents.NullPrompt(*text.encode([""])[0])
  writer = LatentWriter(F.out, metadata, null, split_ids(clips.ids, F.shard))
  batch = config.encode.batch
  encode_video = functools.partial(
    vae.encode, window=config.encode.window, batch=batch
  )
  summary = encode.encode_clips(
    clips, writer, encode_video, text.encode, batch=batch, threads=F.threads
  )
  done = summary.stored or summary.skipped
  print(summary if done else f"{F.out} was already complete")
  print(f"latents: {F.out}")


def run():
  """Entry point."""
  app.run(main, config_flag.check)


if __name__ == "__main__":
  run()
