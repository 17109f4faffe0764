"""Prompts to frames: text encoder, sampler and VAE of a trained model.

  pipeline = Pipeline.load("runs/dit")
  frames = pipeline(["a small red circle moves left on a blue background"])

Legend: B samples, R rows (2B with guidance), M text tokens, T frames, H W
pixels.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from pyramid_jax import checkpoint, sharding
from pyramid_jax.checkpoint import CheckpointError
from pyramid_jax.config import (
  Config,
  ConfigError,
  GenerateConfig,
  MeshConfig,
)
from pyramid_jax.convert.text_folder import TextEncoder, load_text_encoder
from pyramid_jax.data.sizes import check_frames, check_size, schedule_of
from pyramid_jax.flow.plan import Plan
from pyramid_jax.flow.sampler import generate_units
from pyramid_jax.generate.trained_vae import TrainedVAE
from pyramid_jax.models.dit import make_dit
from pyramid_jax.models.pure import Params


class Pipeline:
  """A model that is ready to generate.

  Attributes:
    config: of the training run; `config.generate` are the defaults.
    vae: decodes, and encodes frames that are given.
    text: encodes prompts.
  """

  def __init__(
    self,
    config: Config,
    params: Params,
    vae: TrainedVAE,
    text: TextEncoder,
    mesh: jax.sharding.Mesh,
  ):
    self.config, self.vae, self.text, self.mesh = config, vae, text, mesh
    self.schedule = schedule_of(config.flow)
    model = make_dit(config.model)
    # one function object, so that a second call finds the compiled program
    self.velocity = Partial(
      lambda params, x, rows, timestep: model.apply(params, x, rows, timestep),
      params,
    )

  @classmethod
  def load(
    cls,
    workdir: str | pathlib.Path,
    *,
    vae: str = "",
    text: str = "",
    weights: str = "ema",
    mesh: jax.sharding.Mesh | None = None,
  ) -> "Pipeline":
    """Reads everything from a training run's workdir.

    Args:
      workdir: of `pyramid-train`.
      vae: the VAE's workdir, if it moved since the data were encoded.
      text: the text encoder's folder, if it moved.
      weights: "ema" or "params".
      mesh: devices; all local ones by default.

    Raises:
      CheckpointError: something is missing, or VAE or text encoder are not
        those that the model was trained with.
    """
    mesh = mesh or sharding.make_mesh(MeshConfig())
    trained = checkpoint.load_trained(
      workdir, "dit", lambda config: make_dit(config.model), mesh, weights
    )
    data, here = trained.meta["latents"], pathlib.Path(workdir)
    places = {
      "vae": vae or here / data["vae_path"],
      "text": text or here / data["text_path"],
    }
    for name, path in places.items():
      if not pathlib.Path(path).is_dir():
        raise CheckpointError(
          f"{workdir} was trained with the {name} of {path}, which is not "
          f"there; say with --{name} where it is now."
        )
    trained_vae = TrainedVAE.load(places["vae"], mesh)
    encoder = load_text_encoder(
      places["text"],
      data["text_kind"],
      max_tokens=data["text_max_tokens"],
      dtype=data["text_dtype"],
    )
    for name, part in (("vae", trained_vae), ("text", encoder)):
      wanted, found = data[f"{name}_fingerprint"], part.fingerprint
      if wanted and wanted != found:  # released weights name none
        raise CheckpointError(
          f"{workdir} was trained with another {name} than {places[name]} "
          f"(fingerprint {wanted[:12]}, found {found[:12]}); name the right "
          f"one with --{name}."
        )
    return cls(trained.config, trained.params, trained_vae, encoder, mesh)

  def __call__(self, prompts: Sequence[str], **options) -> np.ndarray:
    """All frames uint8 [B, T, H, W, 3]; options as `stream`."""
    return np.concatenate(list(self.stream(prompts, **options)), 1)

  def stream(
    self,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    first: int = 0,
    given: np.ndarray | None = None,
    **changes: Any,
  ) -> Iterator[np.ndarray]:
    """Frames uint8 [B, t, H, W, 3] of each unit, as soon as it is done.

    Args:
      prompts: B of them.
      seed: sample i draws from (seed, i) alone, whatever else is in the batch.
      first: number of the first sample; the others follow.
      given: uint8 [B, T0, H, W, 3] frames to go on from, 8 n + 1; they come
        first in the stream, as the VAE sees them.
      **changes: to `config.generate`, such as frames or guidance.

    Raises:
      ConfigError: a size, length or option that cannot be generated.
    """
    options = self.options(**changes)
    plan = self.plan(options)
    B = len(prompts)
    padded = -(-B // self.vae.batch_multiple) * self.vae.batch_multiple
    prompts = [*prompts, *[prompts[-1]] * (padded - B)]
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(
      first + jnp.arange(padded)
    )
    text = self._text(prompts, options, plan)
    prefix = None
    if given is not None:
      given = np.concatenate([given, given[-1:].repeat(padded - B, 0)])
      z = self.vae.encode(
        list(given), [f"{seed} {first + i}" for i in range(padded)], 8
      )
      prefix = np.stack([self.vae.statistics.normalise(x) for x in z])

    def units():
      if prefix is not None:
        yield jnp.asarray(prefix)
      with jax.set_mesh(self.mesh):
        for ends in generate_units(
          self.velocity, plan, self.schedule, text, keys=keys, prefix=prefix
        ):
          yield ends[-1]

    for frames in self.vae.decode_stream(units()):
      yield frames[:B]

  def options(self, **changes: Any) -> GenerateConfig:
    """`config.generate` with changes; None leaves a setting."""
    known = {f.name for f in dataclasses.fields(GenerateConfig)}
    changes = {k: v for k, v in changes.items() if v is not None}
    if unknown := changes.keys() - known:
      raise ConfigError(
        f"{', '.join(sorted(unknown))}: not an option of generation; there are "
        f"{', '.join(sorted(known))}."
      )
    return dataclasses.replace(self.config.generate, **changes)

  def plan(self, options: GenerateConfig) -> Plan:
    """Sizes in latents.

    Raises:
      ConfigError: a size or length that the pyramid cannot divide; the nearest
        that it can is named.
    """
    model, flow = self.config.model, self.config.flow
    check_size(options.height, options.width, flow, model, self.vae.config)
    check_frames(options.frames, flow, self.vae.config)
    for name in ("steps", "video_steps"):
      steps = getattr(options, name)
      if len(steps) != flow.stages or min(steps) < 1:
        raise ConfigError(
          f"config.generate.{name} is {steps}; give a number of steps, at "
          f"least 1, for each of the {flow.stages} stages."
        )
    space, time = self.vae.space_factor, self.vae.time_factor
    return Plan(
      frames=(options.frames - 1) // time + 1,
      height=options.height // space,
      width=options.width // space,
      channels=model.latent_channels,
      steps=options.steps,
      later_steps=options.video_steps,
      guidance=options.guidance,
      later_guidance=options.video_guidance,
      guidance_decay=options.guidance_decay,
      min_guidance=options.min_guidance,
      frames_per_unit=flow.frames_per_unit,
      patch=model.patch,
      upsample=flow.upsample,
      positions=model.history_positions,
      table_size=model.grid,
      full_sequence=flow.history == "none",
    )

  def _text(
    self, prompts: Sequence[str], options: GenerateConfig, plan: Plan
  ) -> dict[str, np.ndarray]:
    """Text rows of the sampler: negative prompts first, if guided."""
    asked = [prompt + options.prompt_suffix for prompt in prompts]
    if plan.guided:
      asked = [options.negative_prompt] * len(asked) + asked
    encoded = self.text.encode(asked)
    M = max(len(features) for features, _ in encoded)
    M = -(-M // 16) * 16  # few lengths, few compiles
    text = np.zeros((len(asked), M, self.text.text_dim), np.float32)
    segment = np.zeros((len(asked), M), np.int32)
    for i, (features, _) in enumerate(encoded):
      text[i, : len(features)] = features
      segment[i, : len(features)] = 1
    pooled = np.stack([p for _, p in encoded])[:, None]
    return {"text": text, "text_segment": segment, "pooled": pooled}
