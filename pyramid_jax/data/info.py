"""What stored datasets hold, and the rows that a run makes of them."""

import collections
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from pyramid_jax.config import (
  Config,
  ConfigError,
  LatentDataConfig,
  Source,
)
from pyramid_jax.data import latents
from pyramid_jax.data.curriculum import Curriculum, parts_of
from pyramid_jax.data.draws import Draws
from pyramid_jax.data.folders import with_folders
from pyramid_jax.data.latents import LatentStore
from pyramid_jax.data.packing import suggest_budgets

DRAWN = 16384  # samples whose tokens are counted
BINS, BAR = 6, 40  # of a histogram, and of its longest bar
LISTED = 12  # sizes, durations and reasons, the most frequent ones
WINDOWS = (0, 1)  # of a plan, whose rows are measured

Lines = Iterator[tuple[str, str]]  # (what, its value), "" goes on


def report(paths: Sequence[str], config: Config | None) -> tuple[str, bool]:
  """Describes folders of stored latents, one by one and together.

  Args:
    paths: the folders; one that cannot be read is told as such.
    config: of a run on all of them, whose rows are told too; or None.

  Returns:
    The text; whether all can be read and, if there are several, mixed.
  """
  good, parts = True, []
  for path in map(pathlib.Path, paths):
    try:
      store = latents.open_store(path)
      lines = [*contents(store), *tokens(store, config or Config())]
    except ConfigError as error:
      lines, good = [("not usable", str(error)), *progress(path)], False
    parts.append((str(path), lines))
  if good and len(paths) > 1:
    try:
      latents.open_stores(paths)
      parts.append(("together", [("mixed", "they can be; same encoders")]))
    except ConfigError as error:
      parts.append(("together", [("not to be mixed", str(error))]))
      good = False
  if good and config is not None:
    try:
      lines = list(rows(paths, config))
    except ConfigError as error:
      lines, good = [("not possible", str(error))], False
    parts.append(("rows", lines))
  return "\n\n".join(_text(title, lines) for title, lines in parts), good


def contents(store: LatentStore) -> Lines:
  """Counts, bytes, sizes, durations and what was left out of a store."""
  meta, lengths = store.metadata, store.lengths
  values = json.loads((store.path / "metadata.json").read_text())
  size = sum(f.stat().st_size for f in store.path.iterdir() if f.is_file())
  yield (
    "clips",
    f"{len(store):,} in {len(values['shard_lengths'])} shards, "
    f"{size / 1e9:.3g} GB; {values['skipped']:,} inputs left out",
  )
  space, time = _factors(store)
  frames = 1 + time * (lengths.frames - 1)
  videos = lengths.frames > 1
  yield (
    "video",
    f"{frames[videos].sum():,} frames in {videos.sum():,} clips: "
    f"{frames[videos].sum() / 24 / 3600:.3g} hours at 24 frames a second",
  )
  yield "images", f"{(~videos).sum():,}"
  sizes = zip(space * lengths.height, space * lengths.width, strict=True)
  yield from _counted("height x width", (f"{h} x {w}" for h, w in sizes))
  yield from _counted("frames", frames.tolist(), by_value=True)
  for what in ("vae", "text"):
    path = getattr(meta, f"{what}_path") or "path unknown"
    yield what, f"{getattr(meta, f'{what}_fingerprint')[:16]} ({path})"
  yield (
    "stored",
    f"{meta.latent_channels} channels {meta.latent_dtype}; text "
    f"{meta.text_dim} + {meta.pooled_dim} {meta.text_dtype} ({meta.text_kind})",
  )
  yield "fingerprint", store.fingerprint[:16]
  yield "format", f"version {values['version']}"
  skipped = (store.path / "skipped.jsonl").read_text().splitlines()
  reasons = (json.loads(line)["reason"].split(":")[0] for line in skipped)
  yield from _counted("left out", reasons)


def tokens(store: LatentStore, config: Config) -> Lines:
  """Histograms of the tokens of its samples, as a run draws them.

  Raises:
    ConfigError: sizes that the config's pyramid cannot divide.
  """
  flow, patch = config.flow, config.model.patch
  one = LatentDataConfig(sources=(Source(),), drop_prompt=0.0)
  drawn = Draws(
    [store.lengths], len(store.null.text), one, flow, patch, config.seed
  )
  samples = drawn.at(0, np.arange(min(DRAWN, len(store))))
  for stage in range(flow.stages):
    mine = samples.latent[samples.stage[:, 0] == stage]
    yield from _histogram(f"stage {stage} tokens", mine)
  text = store.lengths.text  # 0 where a clip has fewer captions than another
  yield from _histogram("text tokens", text[text > 0])


def progress(path: pathlib.Path) -> Lines:
  """How far the encoding of an unfinished store came."""
  written = sorted(path.glob("latents-train.array_record-*-of-*[0-9]"))
  if not (path / "writing.json").exists() or not written:
    return
  shards = int(written[0].name.rsplit("-", 1)[-1])
  notes = [json.loads(f.read_text()) for f in path.glob("shard-*.json")]
  clips = sum(len(note["sizes"]) for note in notes)
  yield (
    "unfinished",
    f"{len(written)} of {shards} shards are there, with {clips:,} clips",
  )


def rows(paths: Sequence[str], config: Config) -> Lines:
  """Rows of a run on folders: how full, how many, and what would suit them.

  Raises:
    ConfigError: clips that do not fit the rows, or another number of folders
      than the config mixes.
  """
  data = with_folders(config.latents, paths)
  stores = latents.open_stores(paths)
  flow, patch = config.flow, config.model.patch
  each = [
    suggest_budgets(stores, part, flow, patch)
    for part, _ in parts_of(data, config.seed)
  ]
  text, segments = map(max, zip(*each, strict=True))
  yield (
    "suggested",
    f"config.latents.text_tokens={text} and segments={segments} for "
    f"latent_tokens={data.latent_tokens} (now {data.text_tokens} and "
    f"{data.segments})",
  )
  plan = Curriculum(stores, data, flow, patch, config.seed)
  for i, planner in enumerate(plan.planners):
    if data.periods:
      yield "period", f"{i}, from step {plan.starts[i] // data.rows:,}"
    windows = [planner.window(w) for w in WINDOWS]
    a_row = sum(len(w.samples.latent) for w in windows) / sum(map(len, windows))
    mixture = planner.draws.mixture
    yield "fill", f"{planner.fill(WINDOWS):.1%} of latent and text tokens"
    yield (
      "epoch",
      f"{mixture.length / a_row:,.0f} rows, {mixture.length:,} samples: "
      f"{mixture.length / a_row / data.rows:,.1f} steps",
    )
    segments = a_row * data.segments_per_clip
    yield (
      "step",
      f"{data.rows * segments:,.1f} segments in {data.rows} rows, "
      f"{segments:.2f} a row",
    )


def _factors(store: LatentStore) -> tuple[int, int]:
  """Pixels and frames of a value of the latent, by the longest clip."""
  i = int(np.argmax(store.lengths.frames))
  longest = store[i]
  later = int(store.lengths.frames[i]) - 1
  space = longest["height"] // int(store.lengths.height[i])
  return space, (longest["frames"] - 1) // later if later else 1


def _counted(what: str, values: Iterable, by_value: bool = False) -> Lines:
  """The most frequent values with their counts."""
  counts: Mapping = collections.Counter(values)
  shown = sorted(counts, key=lambda v: (-counts[v], str(v)))[:LISTED]
  if by_value:
    shown.sort()
  for value in shown:
    yield what, f"{value}: {counts[value]:,}"
    what = ""
  if len(counts) > len(shown):
    rest = sum(counts.values()) - sum(counts[v] for v in shown)
    yield "", f"{len(counts) - len(shown)} others: {rest:,}"


def _histogram(what: str, values: np.ndarray) -> Lines:
  """Shares of the values, or of equal ranges of many, as bars."""
  if not len(values):
    yield what, "none"
    return
  yield what, f"{values.min():,} to {values.max():,}, mean {values.mean():,.0f}"
  names, counts = np.unique(values, return_counts=True)
  if len(names) > BINS:
    counts, edges = np.histogram(values, BINS)
    low = np.ceil(edges).astype(int)
    high = [*low[1:-1] - 1, low[-1]]
    names = [f"{a:,}-{b:,}" for a, b in zip(low, high, strict=False)]
  for name, count in zip(names, counts, strict=True):
    bar = "#" * round(BAR * count / counts.max())
    yield "", f"{name:<15}{count / len(values):6.1%}  {bar}".rstrip()


def _text(title: str, lines: Iterable[tuple[str, str]]) -> str:
  return "\n".join([title, *(f"  {k:<15} {v}".rstrip() for k, v in lines)])
