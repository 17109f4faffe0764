"""The VAE and the text encoder that make a store of a config."""

import dataclasses
import functools
import os
import pathlib

import jax

from pyramid_jax.config import Config
from pyramid_jax.convert import text_folder
from pyramid_jax.data import latents
from pyramid_jax.data.encode import EncodeText, EncodeVideo
from pyramid_jax.generate.trained_vae import TrainedVAE


@dataclasses.dataclass(frozen=True)
class Encoders:
  """What encodes clips and captions, and what their store says of it."""

  metadata: latents.Metadata
  null: latents.NullPrompt
  encode_video: EncodeVideo
  encode_text: EncodeText


def load_encoders(
  config: Config, vae: str | os.PathLike, mesh: jax.sharding.Mesh
) -> Encoders:
  """Reads a trained VAE and the config's text encoders.

  The clips of a batch are split over the mesh; prompts go through one device.

  Raises:
    CheckpointError: of the VAE, see `TrainedVAE.load`.
    ConfigError, SnapshotError, TokenizerError: of the text encoders, see
      `text_folder.load_text_encoder`.
  """
  encode = config.encode
  trained = TrainedVAE.load(vae, mesh)
  text = text_folder.from_config(config.text)
  metadata = latents.Metadata(
    vae_fingerprint=trained.fingerprint,
    text_fingerprint=text.fingerprint,
    latent_channels=trained.config.latent_channels,
    text_dim=text.text_dim,
    pooled_dim=text.pooled_dim,
    statistics=trained.statistics,
    text_dtype=config.text.dtype,
    text_kind=config.text.kind,
    text_max_tokens=config.text.max_tokens,
    vae_path=trained.path,
    text_path=str(pathlib.Path(config.text.path).absolute()),
  )
  # no chunk is longer than a whole clip
  window = max(min(encode.window, encode.max_frames - 1), trained.time_factor)
  return Encoders(
    metadata,
    latents.NullPrompt(*text.encode([""])[0]),
    functools.partial(trained.encode, window=window, batch=encode.batch),
    text.encode,
  )
