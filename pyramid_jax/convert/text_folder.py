"""Text encoders and tokenizers in a folder of the released layout.

SD3-type: text_encoder (CLIP-L), text_encoder_2 (CLIP-G), text_encoder_3 (T5);
flux-type: text_encoder (CLIP-L), text_encoder_2 (T5); beside each its
tokenizer. Every size comes from the `config.json` of the component.

Legend: B prompts, M T5 tokens, E T5 width, P pooled width.
"""

import collections
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from pyramid_jax import config as settings
from pyramid_jax import sharding
from pyramid_jax.config import ConfigError, TextConfig
from pyramid_jax.convert import component, snapshot
from pyramid_jax.convert.models import CLIP_ENCODER, T5_ENCODER, Model
from pyramid_jax.convert.snapshot import SnapshotError
from pyramid_jax.data.tokenize import CLIPTokenizer, T5Tokenizer
from pyramid_jax.models.pure import Params, Pure, pure
from pyramid_jax.models.text import TextConfigs, TextModel, combine

SHORTEST = 16  # tokens that any prompt is padded to; then 32, 64, ...

# For each kind: our name -> number of the folder.
PARTS = {
  "sd3": {"clip_l": "", "clip_g": "_2", "t5": "_3"},
  "flux": {"clip_l": "", "t5": "_2"},
}


class TextEncoder:
  """Prompts to what the diffusion model takes: features and a vector.

  Attributes:
    configs: the sizes of the encoders.
    params: their parameters, placed on the device or the mesh.
    tokenizers: by part, as the folder names them in `PARTS`.
    text_dim, pooled_dim: widths E and P of the result.
    batch: prompts encoded at once.
  """

  def __init__(
    self,
    configs: TextConfigs,
    params: Params,
    tokenizers: Mapping[str, T5Tokenizer | CLIPTokenizer],
    *,
    batch: int = 16,
    mesh: Mesh | None = None,
  ):
    self.configs, self.tokenizers, self.mesh = configs, tokenizers, mesh
    self.text_dim, self.pooled_dim = configs.t5.width, configs.pooled
    model = _model(configs)
    if mesh is None:
      self.batch = batch
      self.params = jax.device_put(params)
    else:
      split = int(np.prod([mesh.shape[a] for a in sharding.RULES["batch"]]))
      self.batch = -(-batch // split) * split
      self.params = jax.device_put(
        params, sharding.tree_shardings(mesh, model.shapes, model.axes)
      )
    self._apply = jax.jit(model.apply)

  def encode(
    self, prompts: Sequence[str]
  ) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each prompt its features [n, E] and pooled [P], float32.

    n is the number of valid T5 tokens; a prompt without words has one, the
    end token. Prompts that are too long are cut with a warning.

    Prompts are padded to 16, 32, 64, ... tokens, by their own length alone, and
    go through in batches of equal ones: few programs, and the result of a
    prompt is the same, bit for bit, whatever else is encoded.
    """
    if not prompts:
      return []
    ids = [self.tokenizers["t5"](prompts)]
    lengths = [ids[0][1].sum(1)]
    for name, tokenizer in self.tokenizers.items():
      if name != "t5":
        ids.append((tokenizer(prompts),))
        lengths.append(tokenizer.lengths(ids[-1][0]))
    same = collections.defaultdict(list)
    for row, length in enumerate(np.max(lengths, 0)):
      same[_padded(int(length))].append(row)
    inputs = [x for part in ids for x in part]
    result: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for width, rows in sorted(same.items()):
      for start in range(0, len(rows), self.batch):
        part = rows[start : start + self.batch]
        padding = ((0, self.batch - len(part)), (0, 0))
        features_BME, pooled_BP = self._call(
          [np.pad(x[part, :width], padding) for x in inputs]
        )
        for i, row in enumerate(part):
          valid = features_BME[i, : lengths[0][row]]
          result[row] = valid.copy(), pooled_BP[i].copy()
    return [result[row] for row in range(len(prompts))]

  def _call(self, inputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if self.mesh is None:
      return jax.device_get(self._apply(self.params, *inputs))
    with jax.set_mesh(self.mesh):
      inputs = sharding.place_batch(self.mesh, inputs, self.batch)
      return jax.device_get(self._apply(self.params, *inputs))

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 over configs, parameters and tokenizer files.

    The same on every machine, mesh and batch size; what is stored with it can
    be trusted to come from these encoders.
    """
    digest = hashlib.sha256(settings.to_json(self.configs).encode())
    for path, x in sorted(traverse_util.flatten_dict(self.params).items()):
      x = np.ascontiguousarray(jax.device_get(x))
      digest.update(f"{path} {x.dtype} {x.shape}".encode())
      digest.update(x.view(np.uint8).data)
    for part, tokenizer in sorted(self.tokenizers.items()):
      digest.update(f"{part} {tokenizer.limit}".encode())
      for file, content in sorted(tokenizer.files.items()):
        digest.update(f"{file} {len(content)}".encode() + content)
    return digest.hexdigest()


def from_config(config: TextConfig, **options) -> TextEncoder:
  """The encoder that the settings name; `options` as `load_text_encoder`."""
  if not config.path:
    raise ConfigError(
      "config.text.path is empty; name the folder with text_encoder*, "
      "tokenizer*."
    )
  return load_text_encoder(
    config.path,
    config.kind,
    max_tokens=config.max_tokens,
    dtype=config.dtype,
    **options,
  )


def load_text_encoder(
  folder: str | os.PathLike,
  kind: str = "sd3",
  *,
  dtype: str = "bfloat16",
  max_tokens: int = 128,
  batch: int = 16,
  mesh: Mesh | None = None,
) -> TextEncoder:
  """Reads encoders and tokenizers; parameters are kept in `dtype`.

  With a mesh, of this process's devices, parameters and batches are split
  over it. The weights may be the released ones or converted.

  Raises:
    ConfigError: an unknown kind, or a config.json we cannot build.
    SnapshotError: a folder or file is missing or broken, or a tokenizer gives
      ids that its encoder does not have.
    NameTableError: tensors that are missing, unknown or misshaped.
    TokenizerError: tokenizer files that are missing or broken.
  """
  folder = pathlib.Path(folder)
  combined = read_configs(folder, kind, dtype)
  params, tokenizers = {}, {}
  for (part, number), config in zip(
    PARTS[kind].items(), (*combined.clips, combined.t5), strict=True
  ):
    tokens = folder / f"tokenizer{number}"
    params[part] = component.load_params(
      model_of(part), config, folder / f"text_encoder{number}", mesh, dtype
    )
    tokenizers[part] = (
      T5Tokenizer(tokens, max_tokens)
      if part == "t5"
      else CLIPTokenizer(tokens, config.positions)
    )
    if tokenizers[part].vocabulary > config.vocabulary:
      raise SnapshotError(
        f"{tokens} gives {tokenizers[part].vocabulary} ids, text_encoder"
        f"{number} has {config.vocabulary}; they are not of one model."
      )
  return TextEncoder(combined, params, tokenizers, batch=batch, mesh=mesh)


def read_configs(
  folder: str | os.PathLike, kind: str, dtype: str = "float32"
) -> TextConfigs:
  """The sizes of a folder's encoders; no weight is read.

  Raises:
    ConfigError: an unknown kind, or a config.json of no encoder of this kind.
    SnapshotError: a config.json is missing or broken.
  """
  if kind not in PARTS:
    raise ConfigError(
      f"text kind {kind!r} is unknown; use one of {', '.join(PARTS)}."
    )
  configs = {}
  for part, number in PARTS[kind].items():
    file = pathlib.Path(folder) / f"text_encoder{number}" / "config.json"
    values = snapshot.read_json(file)
    try:
      config = model_of(part).read_config(values)
    except ConfigError as error:
      others = ", ".join(repr(other) for other in PARTS if other != kind)
      raise ConfigError(
        f"{file}, read for config.text.kind={kind!r}: {error} If {folder} is "
        f"of another kind ({others}), set that."
      ) from error
    configs[part] = dataclasses.replace(config, dtype=dtype)
  clips = [c for part, c in configs.items() if part != "t5"]
  return combine(kind, configs["t5"], clips)


def write_text_encoder(
  folder: str | os.PathLike,
  configs: TextConfigs,
  params: Params,
  tokenizer_files: Mapping[str, Mapping[str, bytes]],
  *,
  shard_bytes: int = snapshot.SHARD_BYTES,
):
  """Writes a folder that `load_text_encoder` reads, whole or not at all.

  `tokenizer_files` gives, by part, the content of each file of its tokenizer;
  `TextEncoder.tokenizers[part].files` has that form.

  Raises:
    SnapshotError: the folder already exists.
  """
  parts = PARTS[configs.kind]

  def write(folder: pathlib.Path):
    for (part, number), config in zip(
      parts.items(), (*configs.clips, configs.t5), strict=True
    ):
      model = model_of(part)
      snapshot.write_component(
        folder / f"text_encoder{number}",
        model.write_config(config),
        model.to_torch(config, params[part]),
        shard_bytes=shard_bytes,
      )
      tokens = folder / f"tokenizer{number}"
      tokens.mkdir()
      for file, content in tokenizer_files[part].items():
        (tokens / file).write_bytes(content)

  snapshot.write_beside(folder, write)


def model_of(part: str) -> Model:
  """How the weights of a part are read and written."""
  return T5_ENCODER if part == "t5" else CLIP_ENCODER


def _padded(length: int) -> int:
  """The next of 16, 32, 64, ...; tokenizers have limits of their own."""
  return max(SHORTEST, 1 << (length - 1).bit_length())


@functools.cache
def _model(configs: TextConfigs) -> Pure:
  return pure(lambda rngs: TextModel(configs, rngs=rngs))
