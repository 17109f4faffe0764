"""Reports of a run: a JSON line, TensorBoard, a line on the terminal."""

import io
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from pyramid_jax.train.spikes import Spikes


def say(text: str) -> None:
  """Prints on the first process alone, also while a bar is shown."""
  if jax.process_index() == 0:
    tqdm.write(text)
    sys.stdout.flush()


class Reporter:
  """Collects metrics of steps and writes their means; one process writes.

  `workdir/metrics.jsonl` has one object a report, `workdir/tensorboard` the
  same for TensorBoard, `workdir/pictures` a png a picture. Lines of steps that
  a resumed run takes again are removed first.

  A step that stands out by `spikes` has a line of its own with the rows and
  samples of its batch. `utilisation` gives the MFU from the steps a second.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    step: int,
    steps: int,
    unit: str,
    spikes: Spikes | None = None,
    utilisation: Callable[[float], float] | None = None,
  ):
    self.writes = jax.process_index() == 0
    self.pending: list[Mapping] = []
    self.spikes = spikes or Spikes()
    self.unit, self.items, self.utilisation = unit, 0.0, utilisation
    self.untimed = 0  # steps of `pending` that do not count for the speed
    self.once: dict[str, float] = {}
    self.since = time.perf_counter()
    self.path, self.pictures = workdir / "metrics.jsonl", workdir / "pictures"
    self.bar = tqdm(
      total=steps, initial=step, unit="step", dynamic_ncols=True,
      disable=None if self.writes else True,
    )  # fmt: skip
    if self.writes:
      workdir.mkdir(parents=True, exist_ok=True)
      self.named = _cut(self.path, step)
      self.board = Board(workdir / "tensorboard", step)

  def restart(self, **values: float):
    """Leaves what was added out of the speed, as a step that was compiled.

    `values` go into the next report.
    """
    jax.block_until_ready(self.pending)
    self.untimed, self.items, self.once = len(self.pending), 0.0, values
    self.since = time.perf_counter()

  def add(self, metrics: Mapping[str, jax.Array], items: float):
    """Remembers the metrics of one step; fetches nothing from the device.

    `items` is how much of `unit` (tokens, frames) the step processed.
    """
    self.pending.append(metrics)
    self.items += items
    self.bar.update()

  def report(self, step: int, **more: float) -> dict[str, float]:
    """Writes the means since the last report, and the speed.

    Of a metric that not all steps have, the mean over those that have it.
    """
    fetched = jax.device_get(self.pending)
    for n, metrics in enumerate(fetched, step - len(fetched)):
      spike = self.spikes.look(n, metrics)
      if spike and self.writes and spike.of() != self.named.get(spike.step):
        self._line(spike.record())
        say(str(spike))
    values = _mean(fetched)
    seconds = time.perf_counter() - self.since
    if timed := len(fetched) - self.untimed:
      values["steps_per_second"] = timed / seconds
      values[f"{self.unit}_per_second"] = self.items / seconds
    if timed and self.utilisation:
      values["mfu"] = self.utilisation(values["steps_per_second"])
    values |= self.once
    self.pending, self.items, self.untimed, self.once = [], 0.0, 0, {}
    self.since = time.perf_counter()
    return self.write(step, {**values, **more})

  def _line(self, values: Mapping[str, Any]) -> None:
    with self.path.open("a") as file:
      file.write(json.dumps(values) + "\n")

  def write(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
    """Writes values that belong to no stretch of steps, such as a PSNR."""
    values = {k: float(v) for k, v in values.items()}
    if not self.writes:
      return values
    # JSON has no NaN
    known = {k: v if math.isfinite(v) else None for k, v in values.items()}
    self._line({"step": step, **known})
    self.board.write(step, values)
    shown = {k: v for k, v in values.items() if k in ("loss", "psnr")}
    text = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
    self.bar.set_postfix({k: f"{v:.4g}" for k, v in shown.items()})
    if self.bar.disable:
      print(f"step {step}  {text}", flush=True)
    return values

  def picture(self, step: int, image_HWC: np.ndarray):
    """Writes `step_000100.png`, whole or not at all, and to TensorBoard."""
    if not self.writes:
      return
    from PIL import Image  # training a transformer needs no Pillow

    encoded = io.BytesIO()
    Image.fromarray(image_HWC).save(encoded, "png")
    self.pictures.mkdir(exist_ok=True)
    path = self.pictures / f"step_{step:06d}.png"
    beside = path.with_suffix(".tmp")
    beside.write_bytes(encoded.getvalue())
    os.replace(beside, path)
    self.board.picture(step, image_HWC.shape, encoded.getvalue())

  def close(self):
    """Ends the bar and writes what is buffered."""
    self.bar.close()
    if self.writes:
      self.board.close()


class Board:
  """TensorBoard's file of a run that goes on from a step.

  It is written at once: tensorboardX's own `SummaryWriter` has a thread for
  that, and waits for it for ever when a full disk has ended it.
  """

  def __init__(self, folder: pathlib.Path, step: int):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    folder.mkdir(exist_ok=True)
    self.writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")
    # what a killed run wrote after this step is not shown
    start = SessionLog(status=SessionLog.START)
    self.writer.write_event(Event(step=step + 1, session_log=start))

  def write(self, step: int, values: Mapping[str, float]):
    """Adds scalars."""
    self._add(step, [dict(tag=k, simple_value=v) for k, v in values.items()])

  def picture(self, step: int, shape: tuple[int, ...], png: bytes):
    """Adds a picture [H, W, C] that is encoded already."""
    image = dict(zip(("height", "width", "colorspace"), shape, strict=True))
    image["encoded_image_string"] = png
    self._add(step, [dict(tag="picture", image=image)])

  def _add(self, step: int, values: list[dict]):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    event = Event(
      step=step, wall_time=time.time(), summary=Summary(value=values)
    )
    self.writer.write_event(event)
    self.writer.flush()

  def close(self):
    """Closes the file."""
    self.writer.close()


def _mean(steps: list[Mapping]) -> dict[str, float]:
  """Means over steps; stage_loss is weighted by stage_segments."""
  if not steps:
    return {}
  names = {k: None for s in steps for k in s if "stage" not in k}
  values = {k: float(np.mean([s[k] for s in steps if k in s])) for k in names}
  if "stage_loss" in steps[0]:
    total = np.sum([s["stage_loss"] for s in steps], 0)
    count = np.sum([s["stage_segments"] for s in steps], 0)
    for k, (t, c) in enumerate(zip(total, count, strict=True)):
      if c:
        values[f"loss_stage_{k}"] = float(t / c)
  return values


def _cut(path: pathlib.Path, step: int) -> dict[int, tuple]:
  """Removes the lines after `step`, and a line that a crash cut short.

  Spikes of a run that goes on stay: when their steps are taken again there is
  no median at first. Gives of what those are, by step.
  """
  if not path.exists():
    return {}
  kept, spikes = [], {}
  for line in path.read_text().splitlines():
    try:
      found = json.loads(line)
    except json.JSONDecodeError:
      continue  # only a crash while writing leaves half a line, the last one
    again = found["step"] > step
    if step and again and "spike" in found:
      spikes[found["step"]] = found["rows"], found["samples"]
    elif again:
      continue
    kept.append(line + "\n")
  beside = path.with_suffix(".tmp")
  beside.write_text("".join(kept))
  os.replace(beside, path)
  return spikes
