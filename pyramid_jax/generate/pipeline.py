"""Prompts to frames: text encoder, sampler and VAE of a trained model.

  pipeline = Pipeline.load("runs/dit")
  frames = pipeline(["a small red circle moves left on a blue background"])

Legend: B samples, R rows (2B with guidance), M text tokens, T frames, H W
pixels.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from pyramid_jax import checkpoint, sharding
from pyramid_jax import config as settings
from pyramid_jax.checkpoint import CheckpointError
from pyramid_jax.config import (
  Config,
  ConfigError,
  GenerateConfig,
  MeshConfig,
)
from pyramid_jax.convert.text_folder import TextEncoder, load_text_encoder
from pyramid_jax.data.sizes import schedule_of
from pyramid_jax.flow.plan import Plan
from pyramid_jax.flow.sampler import generate_units
from pyramid_jax.generate.phases import Part, Phases
from pyramid_jax.generate.sizes import (
  check_rows,
  first_given,
  given_units,
  sampling_plan,
)
from pyramid_jax.generate.steps import Steps
from pyramid_jax.generate.trained_vae import TrainedVAE
from pyramid_jax.models.dit import make_dit
from pyramid_jax.models.pure import Params

Changes = Mapping[int, Sequence[str]]
TEXT_STEP = 16  # rows have a multiple of so many text tokens: few compiles


class Pipeline:
  """A model that is ready to generate.

  Attributes:
    config: of the training run; `config.generate` are the defaults.
    vae_config: sizes of its VAE.
    phases: seconds and peak memory of what was done so far.
  """

  def __init__(
    self,
    config: Config,
    params: Part[Params],
    vae: Part[TrainedVAE],
    text: Part[TextEncoder],
    mesh: jax.sharding.Mesh,
    vae_config: settings.VAEConfig,
  ):
    self.config, self.mesh, self.vae_config = config, mesh, vae_config
    self.schedule = schedule_of(config.flow)
    platform = mesh.devices.flat[0].platform
    self._devices = platform, sharding.parts("tokens", mesh)
    self.phases = Phases()
    self._params, self._vae, self._text = params, vae, text
    self._steps = steps = Steps()
    model = make_dit(config.model)

    def counted(params, x, rows, timestep):
      jax.debug.callback(lambda: steps.done())
      return model.apply(params, x, rows, timestep)

    # one function object each, so that a second call finds the compiled program
    self._velocity, self._counted = model.apply, counted

  @classmethod
  def load(
    cls,
    workdir: str | pathlib.Path,
    *,
    vae: str = "",
    text: str = "",
    weights: str = "ema",
    mesh: jax.sharding.Mesh | None = None,
    low_memory: bool = False,
  ) -> "Pipeline":
    """Reads everything from a training run, or from converted weights.

    Args:
      workdir: of `pyramid-train`, or a transformer of `pyramid-convert`.
      vae: the VAE's workdir, if it moved since the data were encoded.
      text: the text encoder's folder, if it moved.
      weights: "ema" or "params".
      mesh: devices; all local ones by default.
      low_memory: text encoder, transformer and VAE are loaded one after the
        other, each when its turn comes, and dropped when it is done.

    Raises:
      CheckpointError: something is missing, or VAE or text encoder are not
        those that the model was trained with.
    """
    mesh, here = mesh or sharding.make_mesh(MeshConfig()), pathlib.Path(workdir)
    config, meta = checkpoint.read_meta(here, "dit")
    places = _places(here, meta, vae, text)
    data = meta["latents"]

    def checked(name: str, part):
      wanted, found = data[f"{name}_fingerprint"], ""
      if wanted:  # released weights name none
        found = part.fingerprint
      if wanted != found:
        raise CheckpointError(
          f"{workdir} was trained with another {name} than {places[name]} "
          f"(fingerprint {wanted[:12]}, found {found[:12]}); name the right "
          f"one with --{name}."
        )
      return part

    make = lambda config: make_dit(config.model)
    encoder = lambda: load_text_encoder(
      places["text"],
      data["text_kind"],
      max_tokens=data["text_max_tokens"],
      dtype=data["text_dtype"],
      mesh=mesh,
    )
    stays = not low_memory
    trained = lambda: checkpoint.load_trained(
      here, "dit", make, mesh, weights, used=True
    )
    return cls(
      config,
      Part(lambda: trained().params, stays),
      Part(lambda: checked("vae", TrainedVAE.load(places["vae"], mesh)), stays),
      Part(lambda: checked("text", encoder()), stays),
      mesh,
      checkpoint.read_meta(places["vae"], "vae")[0].vae,
    )

  @property
  def vae(self) -> TrainedVAE:
    """Decodes, and encodes frames that are given."""
    return self._vae.value

  @property
  def text(self) -> TextEncoder:
    """Encodes prompts."""
    return self._text.value

  def __call__(self, prompts: Sequence[str], **options) -> np.ndarray:
    """All frames uint8 [B, T, H, W, 3]; options as `stream`."""
    return np.concatenate(list(self.stream(prompts, **options)), 1)

  def stream(
    self,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    first: int | Sequence[int] = 0,
    given: np.ndarray | None = None,
    later: Changes | None = None,
    progress: Callable[[], None] | None = None,
    **changes: Any,
  ) -> Iterator[np.ndarray]:
    """Frames uint8 [B, t, H, W, 3] of each unit, as soon as it is done.

    Args:
      prompts: B of them.
      seed: sample i draws from (seed, i) alone, whatever else is in the batch
        and on however many devices.
      first: number of the first sample, the others follow; or of each.
      given: uint8 [B, T0, H, W, 3] frames to go on from, whole units; they come
        first in the stream, as the VAE sees them.
      later: unit -> B prompts that hold from this unit on.
      progress: called after every call of the transformer; programs that do so
        cannot be kept between runs.
      **changes: to `config.generate`, such as frames or guidance.

    Raises:
      ConfigError: a size, length or option that cannot be generated.
    """
    options = self.options(**changes)
    stream = self._frames(
      list(prompts), options, seed, first, given, later, progress
    )
    yield from stream

  def _frames(self, prompts, options, seed, first, given, later, progress):
    B = len(prompts)
    units = self.latents(
      prompts, options, seed=seed, first=first, given=given, later=later,
      progress=progress,
    )  # fmt: skip
    chunks = (ends[-1] for ends in units)
    if not self._params.stays:  # the transformer goes before the VAE comes
      chunks = [np.asarray(chunk) for chunk in chunks]
    with self.phases.timed("VAE"):
      window = self.config.flow.frames_per_unit
      stream = self.vae.decode_stream(chunks, options.tile, window)
    while True:
      with self.phases.timed("VAE"):
        if (frames := next(stream, None)) is None:
          return
      yield frames[:B]

  def latents(
    self,
    prompts: Sequence[str],
    options: GenerateConfig,
    *,
    seed: int = 0,
    first: int | Sequence[int] = 0,
    given: np.ndarray | None = None,
    later: Changes | None = None,
    progress: Callable[[], None] | None = None,
  ) -> Iterator[tuple[jax.Array, ...]]:
    """Where the stages of each unit end, [B', T, h, w, C] normalised latents.

    The coarsest is first, the last is the unit's own. B' is B, made a multiple
    of what the mesh splits rows by; given frames come as one unit of one stage.

    Raises:
      ConfigError: as `stream`.
    """
    count = len(prompts)
    plan = self.plan(options, first_given(given, count))
    split = math.prod(self.mesh.shape[a] for a in sharding.RULES["batch"])
    fill = lambda x: [*x, *[x[-1]] * (-count % split)]
    asked = _by_unit(prompts, later or {}, plan.units)
    rows = self._rows({u: fill(x) for u, x in asked.items()}, options, plan)
    tokens = rows[0]["text_segment"].shape[1]
    check_rows(self.config, plan, tokens, *self._devices)
    self._text.release()
    numbers = range(first, first + count) if isinstance(first, int) else first
    numbers = fill(numbers)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(
      jnp.array(numbers)
    )
    start = lambda unit: max(u for u in rows if u <= unit)
    prefix = None
    if given is not None:
      ids = [f"{seed} {number}" for number in numbers]
      prefix = self._encode(np.asarray(fill(given)), ids, options.tile)
      self._vae.release()
      # placed like generated units: the same program continues either
      prefix = sharding.place_batch(self.mesh, prefix, len(prefix))
      yield (prefix,)
    velocity = self._counted if progress else self._velocity
    with self.phases.timed("transformer"):
      velocity = Partial(velocity, self._params.value)
    units = generate_units(
      velocity,
      plan,
      self.schedule,
      lambda unit: rows[start(unit)],
      keys=keys,
      prefix=prefix,
    )
    while ends := self._next(units, progress):
      yield ends

  def _next(self, units, progress) -> tuple[jax.Array, ...] | None:
    """The next unit, or None; the mesh is set no longer than it takes.

    Whoever takes the units has a mesh of their own, or other pipelines.
    """
    with (
      self.phases.timed("transformer"),
      jax.set_mesh(self.mesh),
      self._steps.told(progress),
    ):
      return jax.block_until_ready(next(units, None))

  def _encode(self, given, ids, tile) -> np.ndarray:
    """Given frames as normalised latents."""
    with self.phases.timed("VAE, given frames"):
      vae = self.vae
      z = vae.encode(list(given), ids, 8, tile=tile)
      return np.stack([vae.statistics.normalise(x) for x in z])

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

  def plan(
    self, options: GenerateConfig, given: np.ndarray | None = None
  ) -> Plan:
    """Sizes in latents; see `sampling_plan`.

    Raises:
      ConfigError: they cannot be generated, or not after the frames `given`
        [T0, H, W, 3] of a clip.
    """
    if given is not None and options.given_guidance:
      scale = options.given_guidance
      options = dataclasses.replace(options, video_guidance=scale)
    plan = sampling_plan(self.config, options, self.vae_config)
    given_units(given, plan, options, self.vae_config)
    check_rows(self.config, plan, TEXT_STEP, *self._devices)
    return plan

  def metadata(
    self, prompt: str, options: GenerateConfig, seed: int, sample: int
  ) -> dict[str, Any]:
    """What a clip was made from."""
    recipe = self.recipe(options, seed)
    return {"prompt": prompt, "sample": sample, **recipe}

  def recipe(self, options: GenerateConfig, seed: int) -> dict[str, Any]:
    """What clips share; `config` is a hash of what departs from defaults."""
    groups = (self.config.model, self.config.flow, self.config.text)
    text = json.dumps([settings.departures(group) for group in groups])
    return {
      "seed": seed,
      "config": hashlib.sha256(text.encode()).hexdigest()[:16],
      **dataclasses.asdict(options),
    }

  def _rows(
    self,
    asked: Mapping[int, Sequence[str]],
    options: GenerateConfig,
    plan: Plan,
  ) -> dict[int, dict[str, np.ndarray]]:
    """Text rows from each unit on, of one shape: negative prompts first."""
    prompts = [p + options.prompt_suffix for x in asked.values() for p in x]
    with self.phases.timed("text"):
      text = self.text
      found = text.encode([options.negative_prompt, *prompts])
    negative, positive = found[0], iter(found[1:])
    M = max(len(features) for features, _ in found)
    M = -(-M // TEXT_STEP) * TEXT_STEP
    result = {}
    for unit, texts in asked.items():
      rows = [next(positive) for _ in texts]
      if plan.guided:
        rows = [negative] * len(rows) + rows
      features = np.zeros((len(rows), M, text.text_dim), np.float32)
      segment = np.zeros((len(rows), M), np.int32)
      for i, (x, _) in enumerate(rows):
        features[i, : len(x)] = x
        segment[i, : len(x)] = 1
      pooled = np.stack([p for _, p in rows])[:, None]
      result[unit] = dict(text=features, text_segment=segment, pooled=pooled)
    return result


def _by_unit(prompts: Sequence[str], later: Changes, units: int) -> Changes:
  """The prompts by the unit that they begin at.

  Raises:
    ConfigError: a unit that the clip lacks, or another number of prompts.
  """
  for unit, texts in later.items():
    if not 0 < unit < units or len(texts) != len(prompts):
      raise ConfigError(
        f"later prompts at unit {unit}: {len(texts)} of them; units 1 to "
        f"{units - 1} can change, with {len(prompts)} prompts each."
      )
  return {0: prompts, **later}


def _places(
  workdir: pathlib.Path, meta: Mapping[str, Any], vae: str, text: str
) -> dict[str, str | pathlib.Path]:
  """Where the VAE and the text encoder of a model are."""
  if "latents" not in meta:
    raise CheckpointError(
      f"{workdir} is a start for training (pyramid-convert --sd3), no model "
      "that can generate; name the --workdir of a pyramid-train."
    )
  data = meta["latents"]
  places = {
    "vae": vae or workdir / data["vae_path"],
    "text": text or workdir / data["text_path"],
  }
  for name, path in places.items():
    if not pathlib.Path(path).is_dir():
      raise CheckpointError(
        f"{workdir} was trained with the {name} of {path}, which is not "
        f"there; say with --{name} where it is now."
      )
  return places
