"""What became of the inputs of a store, in numbers: its summary.json.

Summed from what was noted of every shard, whichever process wrote it in
whichever run.
"""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from pyramid_jax.data.files import LeftOut


@dataclasses.dataclass(frozen=True)
class Summary:
  """Of a store.

  Attributes:
    inputs: files, lines of a manifest or records that were given.
    stored: clips of them; `videos` have more than one frame, the others are
      images.
    skipped: by reason, how many.
    trimmed: clips that lost frames at their end (8 n + 1).
    no_caption: clips whose caption is empty.
    video_hours: of what is stored, at the store's frame rate.
    latent_tokens: of all clips at each stage of the pyramid, coarsest first.
    captions, text_tokens: of all clips.
    seconds: about how long encoding took, from the first shard to the last,
      without what killed runs lost.
    device_idle: share of it in which the encoder waited for decoded clips.
    clips_per_second: stored, over all processes.
  """

  inputs: int
  stored: int
  videos: int
  skipped: Mapping[str, int]
  trimmed: int
  no_caption: int
  video_frames: int
  video_hours: float
  latent_tokens: Sequence[int]
  captions: int
  text_tokens: int
  seconds: float
  device_idle: float
  clips_per_second: float

  @classmethod
  def read(cls, store: pathlib.Path) -> "Summary | None":
    """That of a store; older ones have none."""
    path = store / "summary.json"
    return cls(**json.loads(path.read_text())) if path.exists() else None

  def __str__(self) -> str:
    images = self.stored - self.videos
    lines = [
      f"{self.stored} of {self.inputs} inputs stored: {self.videos} videos of "
      f"{self.video_hours:.3g} h ({self.video_frames} frames), {images} images",
      "latent tokens at each stage: "
      + ", ".join(f"{n:,}" for n in self.latent_tokens),
      f"text tokens: {self.text_tokens:,} in {self.captions} captions",
      f"{self.seconds:.1f} s, {self.clips_per_second:.3g} clips a second; the "
      f"encoder waited for clips {self.device_idle:.0%} of the time",
    ]
    if self.trimmed:
      lines.append(f"{self.trimmed} clips lost frames at their end (8 n + 1)")
    if self.no_caption:
      lines.append(f"{self.no_caption} clips have an empty caption")
    if self.skipped:
      total = sum(self.skipped.values())
      lines.append(f"{total} inputs left out, see skipped.jsonl:")
      lines += [f"  {n} x {why}" for why, n in self.skipped.items()]
    return "\n".join(lines)


def summarise(
  notes: Sequence[Mapping[str, Any]],
  left_out: Sequence[LeftOut],
  fps: float,
  stages: int,
  patch: int,
) -> dict[str, Any]:
  """The summary of a store as plain values.

  Args:
    notes: of every shard.
    left_out: what no shard has.
    fps: of the stored videos.
    stages: of the pyramid.
    patch: latent pixels a side of a token.
  """
  total = lambda name: sum(n[name] for n in notes)
  sizes = [size for n in notes for size in n["sizes"]]
  texts = [text for n in notes for text in n["text"]]
  skipped = [line["reason"] for n in notes for line in n["skipped"]]
  skipped += [reason for _, reason in left_out]
  tokens = sum(t * h * w for t, h, w in sizes) // patch**2
  # processes work at the same time
  seconds = sum(n["seconds"] / n["processes"] for n in notes)
  kinds = collections.Counter(map(kind_of, skipped))
  return dataclasses.asdict(
    Summary(
      inputs=len(sizes) + len(skipped),
      stored=len(sizes),
      videos=total("videos"),
      skipped=dict(kinds.most_common()),
      trimmed=total("trimmed"),
      no_caption=total("no_caption"),
      video_frames=total("video_frames"),
      video_hours=total("video_frames") / fps / 3600,
      latent_tokens=[tokens >> 2 * k for k in reversed(range(stages))],
      captions=sum(map(len, texts)),
      text_tokens=sum(map(sum, texts)),
      seconds=seconds,
      device_idle=total("waited") / max(total("seconds"), 1e-9),
      clips_per_second=len(sizes) / max(seconds, 1e-9),
    )
  )


def kind_of(reason: str) -> str:
  """A reason without what differs from file to file."""
  return reason.split(":")[0].split(" (")[0]
