"""Clips that a published benchmark asks for: their names, seeds and settings.

VBench finds a clip by its name, `PROMPT-SAMPLE.mp4`, and takes the ending of
whatever its folder lists first for that of all clips. So there is nothing but
clips in a folder; what was made is told by a JSON file beside it.
"""

import collections
import dataclasses
import difflib
import hashlib
import json
import logging
import math
import os
import pathlib
import secrets
import tempfile
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pyramid_jax.config import ConfigError, GenerateConfig

log = logging.getLogger(__name__)

FPS = 24.0
# bytes: a file system's 255 less what an unfinished file has around its name
LONGEST_NAME = 255 - len("..partial.mp4")
STATIC = "temporal_flickering"  # VBench keeps the clips of it that stand still
DIMENSIONS = (
  "subject_consistency", "background_consistency", STATIC,
  "motion_smoothness", "dynamic_degree", "aesthetic_quality",
  "imaging_quality", "object_class", "multiple_objects", "human_action",
  "color", "spatial_relationship", "scene", "appearance_style",
  "temporal_style", "overall_consistency",
)  # fmt: skip
SAMPLES, STATIC_SAMPLES = 5, 25  # clips of a prompt of VBench


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """What is made for one.

  Attributes:
    frames: of a clip.
    ending: of its file.
    prompts: of the full set; different ones if files are named by them.
    clips: of the full set.
    named: whether a file is named by its prompt, else by its number.
  """

  frames: int
  ending: str
  prompts: int
  clips: int
  named: bool = False


BENCHMARKS = {
  "vbench": Benchmark(121, ".mp4", 944, 6220, named=True),
  "evalcrafter": Benchmark(121, ".mp4", 700, 700),
  "coco": Benchmark(1, ".png", 3000, 3000),
}


@dataclasses.dataclass(frozen=True)
class Clip:
  """One file of a benchmark.

  Attributes:
    path: where it goes.
    prompt: what it shows.
    sample: of how many of this prompt.
    number: of all clips; it draws from (seed, number).
  """

  path: pathlib.Path
  prompt: str
  sample: int
  number: int


def read_prompts(path: str | os.PathLike) -> dict[str, int]:
  """How many clips VBench wants of each prompt, in the order of the file.

  The file is VBench_full_info.json, whose entries of one prompt count once, or
  text with a prompt a line: 25 clips for temporal flickering (in a text file
  if it is called so), 5 otherwise.

  Raises:
    ConfigError: no such file, no prompts in it, or an unknown dimension.
  """
  path = pathlib.Path(path)
  if path.suffix.lower() != ".json":
    return dict.fromkeys(read_lines(path), _samples({path.stem}))
  text = _read_text(path)
  try:
    entries = [_read_entry(entry) for entry in json.loads(text)]
  except (ValueError, TypeError, KeyError, RecursionError) as error:
    raise ConfigError(
      f"{path} is not like VBench_full_info.json, a list of entries with "
      f"prompt_en and dimension ({type(error).__name__}: {error})."
    ) from error
  dimensions = collections.defaultdict(set)
  for prompt, names in entries:
    try:
      dimensions[prompt].update(map(check_dimension, names))
    except ConfigError as error:
      raise ConfigError(f"{path}: {error}") from error
  if not dimensions:
    raise ConfigError(f"{path} has no prompts.")
  return {p: _samples(names) for p, names in dimensions.items()}


def _read_entry(entry: Any) -> tuple[str, list[str]]:
  """The prompt and the dimensions of one entry."""
  prompt, names = entry["prompt_en"], entry["dimension"]
  names = [names] if isinstance(names, str) else names
  if not isinstance(prompt, str):
    raise TypeError(f"prompt_en is {prompt!r}, not text")
  if not isinstance(names, list) or any(not isinstance(n, str) for n in names):
    raise TypeError(f"dimension is {names!r}, not text or a list of texts")
  return prompt, names


def check_dimension(name: str) -> str:
  """The dimension as VBench's files write it; blanks count as underscores.

  Raises:
    ConfigError: there is none of this name; the nearest is named.
  """
  known = name.strip().lower().replace(" ", "_")
  if known not in DIMENSIONS:
    near = difflib.get_close_matches(known, DIMENSIONS, 1, 0.0)[0]
    raise ConfigError(
      f"{name!r} is no dimension of VBench; did you mean {near}? There are "
      f"{', '.join(DIMENSIONS)}."
    )
  return known


def _samples(dimensions: Collection[str]) -> int:
  return STATIC_SAMPLES if STATIC in dimensions else SAMPLES


def read_lines(path: str | os.PathLike) -> list[str]:
  """The prompts of a text file, one a line.

  Raises:
    ConfigError: no such file, one of JSON, or no prompts in it.
  """
  if pathlib.Path(path).suffix.lower() in (".json", ".jsonl"):
    raise ConfigError(
      f"--prompts: {path} is JSON; text is read here, a prompt a line."
    )
  lines = [x.strip() for x in _read_text(path).split("\n") if x.strip()]
  if not lines:
    raise ConfigError(f"--prompts: {path} has no prompts.")
  return lines


def _read_text(path: str | os.PathLike) -> str:
  if not pathlib.Path(path).is_file():
    raise ConfigError(f"--prompts: {path} is not a file.")
  try:
    # some editors begin a file with a mark, which no prompt has
    return pathlib.Path(path).read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise ConfigError(f"--prompts: {path} is not text ({error}).") from error


def make_clips(
  name: str, prompts: str | os.PathLike, out: str | os.PathLike
) -> list[Clip]:
  """The clips of a benchmark and where they go.

  Two names that the disk cannot tell apart do not meet: the second goes to the
  folder OUT-2.

  Raises:
    ConfigError: there are no prompts, or OUT is no folder.
  """
  out = pathlib.Path(out)
  if out.suffix in (".mp4", ".gif", ".png", ".json"):
    raise ConfigError(f"--out={out} must be a folder for a benchmark.")
  if BENCHMARKS[name].named:
    out.mkdir(parents=True, exist_ok=True)
    return _named(read_prompts(prompts), out, BENCHMARKS[name].ending)
  return [
    Clip(out / f"{i:04d}{BENCHMARKS[name].ending}", prompt, 0, i)
    for i, prompt in enumerate(read_lines(prompts))
  ]


def _named(prompts: Mapping[str, int], out: pathlib.Path, ending: str):
  """Clips that are called as their prompts."""
  folds, taken, clips = folds_case(out), collections.Counter(), []
  for prompt, samples in prompts.items():
    room = LONGEST_NAME - len(f"-{samples - 1}{ending}")
    stem = file_stem(prompt, room)
    key = unicodedata.normalize("NFC", stem.casefold()) if folds else stem
    taken[key] += 1
    folder = out
    if taken[key] > 1:
      folder = out.with_name(f"{out.name}-{taken[key]}")
      log.warning(
        "%r has the file name of another prompt on this disk; its clips go to "
        "%s. Move them to one folder on a disk that tells them apart.",
        prompt,
        folder,
      )
    if stem != prompt:
      log.warning(
        "%r cannot be a file's name; its clips are called %s-..., under which "
        "VBench does not look for them.",
        prompt,
        stem,
      )
    clips += [
      Clip(folder / f"{stem}-{i}{ending}", prompt, i, len(clips) + i)
      for i in range(samples)
    ]
  return clips


def file_stem(prompt: str, room: int = LONGEST_NAME) -> str:
  """The prompt, without what no file's name may have, in `room` bytes."""
  stem = "".join("_" if c in "/\0" or ord(c) < 32 else c for c in prompt)
  if stem in ("", ".", ".."):
    stem = stem.replace(".", "_") or "_"
  if len(data := stem.encode()) > room:
    mark = f"~{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
    stem = data[: room - len(mark)].decode(errors="ignore") + mark
  return stem


def folds_case(folder: pathlib.Path) -> bool:
  """Whether names that differ in case alone are one file there."""
  with tempfile.NamedTemporaryFile(prefix=".case", dir=folder) as file:
    path = pathlib.Path(file.name)
    return path.with_name(path.name.upper()).exists()


def check_fps(fps: float, workdir: str | os.PathLike) -> None:
  """Raises ConfigError for a model of another frame rate than benchmarks'."""
  if fps != FPS:
    raise ConfigError(
      f"{workdir} makes {fps:g} frames a second; a benchmark's clips have "
      f"{FPS:g}."
    )


def count_prompts(name: str, prompts: Sequence[str]) -> int:
  """How many prompts there are; where files have numbers one may come again.

  Args:
    name: of the benchmark.
    prompts: that of each clip.
  """
  return len(set(prompts) if BENCHMARKS[name].named else prompts)


def tell_differences(name: str, clips: Sequence[Clip], frames: int) -> None:
  """Says what makes scores of these clips incomparable with published ones."""
  kind = BENCHMARKS[name]
  prompts = count_prompts(name, [c.prompt for c in clips])
  if (prompts, len(clips)) != (kind.prompts, kind.clips):
    log.warning(
      "%d prompts and %d clips; the full set has %d and %d",
      prompts,
      len(clips),
      kind.prompts,
      kind.clips,
    )
  if frames != kind.frames:
    log.warning(
      "%d frames a clip; published results have %d", frames, kind.frames
    )


def manifest_path(out: str | os.PathLike) -> pathlib.Path:
  """Beside the folder, which holds clips alone."""
  out = pathlib.Path(os.path.abspath(out))  # "." has no name
  return out.with_name(f"{out.name}.json")


def as_begun(old: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
  """`old` with the defaults of those options in `new` that it is older than."""
  defaults = json.loads(json.dumps(dataclasses.asdict(GenerateConfig())))
  return {**{k: v for k, v in defaults.items() if k in new}, **old}


def keep_manifest(
  out: str | os.PathLike,
  name: str,
  clips: Sequence[Clip],
  settings: Mapping[str, Any],
) -> None:
  """Writes what is to be made, or compares with what was begun there.

  `settings` has the seed, the sizes, and all else that changes a clip. Every
  process of several writes or finds the same.

  Raises:
    ConfigError: the folder belongs to other prompts or settings, or holds clips
      of which none are known.
  """
  path = manifest_path(out)
  # asked first: another process makes clips only after it has written the file
  begun = next((clip.path for clip in clips if clip.path.exists()), None)
  wanted = {
    "benchmark": name,
    **settings,
    "clips": [
      {
        "file": os.path.relpath(clip.path, path.parent),
        "prompt": clip.prompt,
        "sample": clip.sample,
        "seed": [settings["seed"], clip.number],
      }
      for clip in clips
    ],
  }
  wanted = json.loads(json.dumps(wanted))  # tuples are lists there
  if path.exists():
    found = as_begun(read_manifest(out), wanted)
    other = [
      f"{k} {found.get(k)!r}, now {wanted.get(k)!r}"
      for k in {**wanted, **found}
      if k != "clips" and found.get(k) != wanted.get(k)
    ]
    if other or found.get("clips") != wanted["clips"]:
      raise ConfigError(
        f"{out} was begun otherwise ({'; '.join(other) or 'other prompts'}); "
        "go on as before, or name another folder."
      )
    return
  if begun:
    raise ConfigError(
      f"{begun} is there, but not {path}, which says what it was made with; "
      "put that file back, or name another folder."
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
  beside.write_text(json.dumps(wanted, indent=1, ensure_ascii=False))
  os.replace(beside, path)


def read_manifest(out: str | os.PathLike) -> dict[str, Any]:
  """What `keep_manifest` wrote for a folder.

  Raises:
    ConfigError: nothing, or nothing whole.
  """
  path = manifest_path(out)
  try:
    made = json.loads(path.read_text())
  except FileNotFoundError:
    raise ConfigError(
      f"{path} is missing, which pyramid-generate --benchmark writes beside "
      f"its folder {out}."
    ) from None
  except (ValueError, RecursionError) as error:
    raise ConfigError(f"{path} is not whole ({error}).") from error
  if not _is_manifest(made):
    raise ConfigError(
      f"{path} is not what pyramid-generate --benchmark writes beside its "
      f"folder {out}; keep it elsewhere."
    )
  return made


def _is_manifest(made: Any) -> bool:
  """Whether it has what is read of one."""
  text = lambda found, key: isinstance(found.get(key), str)
  # true and false are no numbers here; NaN is below nothing
  number = lambda key, *kinds: (
    type(made.get(key)) in kinds and 0 < made[key] < math.inf
  )
  return (
    isinstance(made, dict)
    and text(made, "benchmark")
    and made["benchmark"] in BENCHMARKS
    and number("fps", int, float)
    and all(number(key, int) for key in ("frames", "height", "width"))
    and isinstance(made.get("clips"), list)
    and bool(made["clips"])
    and all(
      isinstance(clip, dict) and text(clip, "file") and text(clip, "prompt")
      for clip in made["clips"]
    )
  )
