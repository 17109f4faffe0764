"""What a plan says, for people: lines of text or a table in Markdown."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

from pyramid_jax.config import Config, VideoDataConfig
from pyramid_jax.cost import estimate
from pyramid_jax.cost.chips import CHIPS, GIB, GPU_SHARE, Chip
from pyramid_jax.cost.hlo import Collective
from pyramid_jax.cost.plan import Plan

Lines = list[tuple[str, str]]


def advice(config: Config, suited: Config) -> str:
  """What a run needs to be planned, in words; see `variants.suited`."""
  if suited == config:
    return ""
  what = {"tensor": "heads and MLP", "sequence": "tokens"}
  rows, parts = f"{config.latents.rows} rows", config.train.microbatches
  if config.kind == "vae":
    what["sequence"], rows = "the height of clips", "the clips of a batch"
  if parts > 1:
    rows += f" in {parts} microbatches"
  mesh = dataclasses.asdict(suited.mesh)
  axes = [a for a in what if mesh[a] != getattr(config.mesh, a)]
  over = " and ".join(f"{what[a]} over {mesh[a]}" for a in axes)
  flags = " ".join(f"--config.mesh.{a}={mesh[a]}" for a in axes)
  return (
    f"{rows} cannot be split over so many devices. Planned with {over}; the "
    f"run needs {flags} too."
  )


def lines(plan: Plan) -> Lines:
  """(label, text) of everything that is known of a plan."""
  compiled = plan.compiled
  mesh = ", ".join(f"{axis} {n}" for axis, n in plan.mesh.items())
  model = plan.config.model
  if plan.config.kind == "dit" and model.heads % plan.mesh.get("tensor", 1):
    mesh += (
      f"; attention whole on tensor: it does not split {model.heads} heads"
    )
  out = [("program", compiled.name), ("machine", str(plan.target)),
         ("mesh", mesh)]  # fmt: skip
  if plan.target.slices > 1:
    out.append(("slices", _slices(plan)))
  out += _rows(plan) + _memory(plan) + _operations(plan) + _network(plan)
  without = f", without {compiled.without}" if compiled.without else ""
  out.append(("compiled in", f"{compiled.seconds:.0f} s{without}"))
  if plan.estimate is not None:
    out += _time(plan)
  if plan.run is not None:
    out += _course(plan)
  return out


def _slices(plan: Plan) -> str:
  each = f"compiled as one of {plan.target.slices}"
  if plan.sampler:
    return f"{each}; they exchange nothing"
  sent = estimate.between_slices(
    plan.compiled.parts["parameters"], plan.target.slices
  )
  return (
    f"{each}; the sum of their float32 gradients, {sent:.3g} bytes sent by a "
    "device over the slow network, is added by formula"
  )


def _rows(plan: Plan) -> Lines:
  w, data = plan.workload, plan.config.latents
  phases = plan.config.videos.phases
  if plan.config.kind == "vae" and phases == VideoDataConfig().phases:
    (p,) = phases
    return [
      (
        "assumed",
        f"no phases in the config: {p.steps:,} steps of {p.batch} clips of "
        f"{p.frames} x {p.height} x {p.width}. configs/vae_short.py and "
        "configs/vae_long.py have a VAE's; config.videos.phases sets them",
      )
    ]
  if w is None:
    return []
  J = data.latent_tokens + data.text_tokens
  full = (w.latent + w.text) / J
  out = [
    (
      "rows a step",
      f"{data.rows} of {data.latent_tokens} latent + {data.text_tokens} text "
      f"tokens, {full:.1%} full; {w.samples:.2f} samples a row, "
      f"{data.rows * w.samples:,.0f} a step",
    ),
    (
      "attention",
      f"sees {w.pairs / J**2:.1%} of all pairs of a row; kernel tiles "
      f"{w.visited / J**2:.1%}",
    ),
  ]
  return out + ([("assumed", w.assumed)] if w.assumed else [])


def _memory(plan: Plan) -> Lines:
  c = plan.compiled
  parts = [f"{name} {_gib(size)}" for name, size in c.parts.items()]
  parts.append(f"activations and temporaries {_gib(c.temp)}")
  limit = "no limit known" if math.isinf(c.limit) else f"of {_gib(c.limit)}"
  verdict = "fits" if c.fits else "DOES NOT FIT"
  total = f"{_gib(c.total)} {limit} GiB"
  if math.isnan(c.total):  # its compiler says no more than that
    total = "more than there is"
  out = [
    ("HBM a device", ", ".join(parts)),
    ("in all", f"{total}: {verdict}"),
  ]
  if c.limit == plan.target.memory and plan.target.platform == "cuda":
    out.append(
      ("", f"{GPU_SHARE:.0%} of the memory: set "
       f"XLA_PYTHON_CLIENT_MEM_FRACTION={GPU_SHARE}, as launch/slurm.sh does")
    )  # fmt: skip
  for size, shape, what in c.largest:
    out.append(("large", f"{_gib(size)} GiB  {shape}  {what}"))
  return out if c.fits else [*out, ("try", _remedies(plan))]


def _remedies(plan: Plan) -> str:
  """What makes a program need less, of that what this one has not yet."""
  config, mesh = plan.config, plan.mesh
  if plan.sampler:
    return "--config.mesh.tensor=2, --config.mesh.sequence=2 or fewer frames"
  parts, batch = 2 * config.train.microbatches, mesh["data"] * mesh["fsdp"]
  rows = [config.latents.rows]
  if config.kind == "vae":
    rows = [s.batch for phase in config.videos.phases for s in phase.shapes]
  tried = []
  if not any(n % (parts * batch) for n in rows):
    tried.append(f"--config.train.microbatches={parts}")
  if config.kind == "vae" and not config.vae.remat:
    tried.append("--config.vae.remat=true")
  if config.kind == "dit" and config.model.remat != "layer":
    tried.append("--config.model.remat=layer")
  if mesh["data"] > plan.target.slices:
    data = plan.target.slices
    tried.append(f"--config.mesh.data={data} with --config.mesh.fsdp=-1")
  swept = "; --sweep compiles such changes" * (config.kind == "dit")
  return ", ".join([*tried, "more devices"]) + swept


def _operations(plan: Plan) -> Lines:
  c, n = plan.compiled, plan.target.devices * plan.target.slices
  work = plan.work
  out = []
  if plan.workload is not None:
    model = estimate.model_flops(plan.config, plan.workload)
    share = model / (n * work.total)
    out.append(
      ("model FLOPs", f"{model:.3g} a step, all devices (closed formula); "
       f"{share:.0%} of what is executed")
    )  # fmt: skip
  how = "traced with loops times their length"
  if c.kernels:
    how += f", plus {work.attention:.3g} in attention kernels (by tiles)"
  out.append(
    (
      "executed",
      f"{work.total:.3g} FLOPs a device: {how}; the compiler alone counts "
      f"{_number(c.counted)}, bodies of loops once",
    )
  )
  if c.unknown:
    out.append(("", f"{c.unknown} loops of unknown length are counted once"))
  out.append(
    ("HBM traffic", f"{_number(c.traffic)} bytes a device, loops as often as "
     "they run")
  )  # fmt: skip
  return out


def _network(plan: Plan) -> Lines:
  out = [
    (
      "collectives" if not i else "",
      f"{c.kind} over {c.group or 'all'}{_nodes(c)}: "
      f"{c.count:g} times, {c.size:.3g} bytes, {c.sent:.3g} sent by a device"
      f"{_links(plan.target.chip, c)}",
    )
    for i, c in enumerate(plan.compiled.collectives)
  ]
  if math.isnan(plan.compiled.traffic):
    return [("collectives", "unknown: the compiler refuses the program")]
  return out or [("collectives", "none")]


def _nodes(sent: Collective) -> str:
  """How a group that does not lie in one node does."""
  return f" of several nodes, {sent.near:g} in each" if sent.far else ""


def _links(chip: Chip | None, sent: Collective) -> str:
  """How many of a TPU's links an exchange has."""
  if not (chip and chip.torus):
    return ""
  count = 2 * chip.torus
  return f" on {sent.links * count:.2g} of {count} links"


def _time(plan: Plan) -> Lines:
  e = plan.estimate
  shares = estimate.Efficiency()
  return [
    (
      "roofline",
      f"compute {_seconds(e.compute)}, memory {_seconds(e.memory)}, network "
      f"{_seconds(e.network)}: {e.binds} binds",
    ),
    ("peaks", _peaks(plan.target.chip)),
    ("efficiency", f"assumed, not measured: {shares}"),
    (
      "time",
      f"{_seconds(e.step)} if all overlaps, {_seconds(e.serial)} if nothing",
    ),
  ]


def _peaks(chip: Chip) -> str:
  given = chip.slow != CHIPS[chip.name].slow
  return f"{chip}{' (--slow_gbps)' * given}; the makers' figures"


def _course(plan: Plan) -> Lines:
  run, steps = plan.run, plan.config.train.steps
  slower = run.estimate.serial / run.estimate.step
  return [
    (
      "speed",
      f"{run.samples:,.0f} samples/s, {run.tokens:,.0f} tokens/s; MFU "
      f"{run.utilisation:.0%}",
    ),
    (
      "this stage",
      f"{steps:,} steps: "
      + _span((run.days, slower * run.days), plan.target.chips),
    ),
  ]


def course(plan: Plan, others: Sequence[tuple[str, Config]]) -> Lines:
  """Days of the other stages of a curriculum, at this plan's utilisation."""
  if plan.run is None:
    return [("all stages", "unknown: this one does not fit")]
  out, total = [], plan.run.days
  for name, config in others:
    days = estimate.days_alike(plan.run, config, plan.target)
    total += days
    steps = config.train.steps
    out.append((name, f"{steps:,} steps: {days:.2f} days at the same MFU"))
  hours = 24 * total * plan.target.chips
  return [*out, ("all stages", f"{total:.2f} days, {hours:,.0f} chip-hours")]


def phases(plans: Sequence[Plan]) -> Lines:
  """What each phase of a VAE's training comes to, where all are estimated."""
  if any(p.estimate is None for p in plans):
    return []
  target, left = plans[0].target, iter(plans)
  out, total = [], [0.0, 0.0]
  for number, phase in enumerate(plans[0].config.videos.phases, 1):
    kinds = (
      (1 - phase.image_ratio, "clips", phase.batch),
      (phase.image_ratio, "images", phase.of_images.batch),
    )
    kinds = [(*kind, next(left).estimate) for kind in kinds if kind[0]]
    step = sum(share * e.step for share, *_, e in kinds)
    serial = sum(share * e.serial for share, *_, e in kinds)
    speed = ", ".join(
      f"{share * batch / step:,.3g} {what}/s" for share, what, batch, _ in kinds
    )
    days = [phase.steps * x / estimate.DAY for x in (step, serial)]
    total = [a + b for a, b in zip(total, days, strict=True)]
    text = f"{phase.steps:,} steps: {speed}; {_span(days, target.chips)}"
    out.append((f"phase {number}", text))
  return [*out, ("all phases", _span(total, target.chips))]


def _span(days: Sequence[float], chips: int) -> str:
  """Days and chip-hours, all overlapping to nothing overlapping."""
  least, most = days
  return (
    f"{least:.2f} to {most:.2f} days, {24 * chips * least:,.0f} to "
    f"{24 * chips * most:,.0f} chip-hours"
  )


def clip(plans: Sequence[Plan]) -> Lines:
  """Seconds of a clip, where all programs of the sampler are estimated."""
  if any(p.estimate is None for p in plans):
    return []
  fast = sum(p.compiled.times * p.estimate.step for p in plans)
  slow = sum(p.compiled.times * p.estimate.serial for p in plans)
  g = plans[0].config.generate
  return [
    (
      "latents",
      f"of {g.frames} frames at {g.height} x {g.width}: {_seconds(fast)} to "
      f"{_seconds(slow)}, a clip for each group of devices",
    )
  ]


def text(entries: Iterable[tuple[str, str]], markdown: bool = False) -> str:
  """The lines in two columns; nothing of no lines."""
  entries = list(entries)
  if not entries:
    return ""
  if markdown:
    rows = [f"| {label} | {value} |" for label, value in entries]
    return "\n".join(["| | |", "|---|---|", *rows])
  width = max(len(label) for label, _ in entries) + 2
  return "\n".join(
    f"{label:<{width}}{value}".rstrip() for label, value in entries
  )


SWEEP = ("change", "HBM GiB", "fits", "step s", "binds", "samples/s", "days")
WIDTHS = (30, 7, 4, 7, 7, 9, 6)


def sweep(
  found: Iterable[tuple[str, Plan | Exception]], markdown: bool = False
) -> Iterator[str]:
  """A table of plans line by line, each as soon as it is made."""
  yield _line(SWEEP, markdown)
  if markdown:
    yield "|" + "---|" * len(SWEEP)
  for name, plan in found:
    yield _line(_row(name, plan), markdown)


def _line(cells: Sequence[str], markdown: bool) -> str:
  if markdown:
    return "| " + " | ".join(cells) + " |"
  padded = (x.ljust(w) for x, w in zip(cells, WIDTHS, strict=True))
  return "  ".join(padded).rstrip()


def _row(name: str, plan: Plan | Exception) -> tuple[str, ...]:
  if isinstance(plan, Exception):
    return name, "-", "-", "-", "-", "-", "- " + str(plan).splitlines()[0]
  memory, run = _gib(plan.compiled.total), plan.run
  verdict = "yes" if plan.compiled.fits else "no"
  if run is None:
    return name, memory, verdict, "-", "-", "-", "-"
  return (name, memory, verdict, f"{run.estimate.step:.3f}",
          run.estimate.binds, f"{run.samples:,.0f}",
          f"{run.days:.2f}")  # fmt: skip


def table(
  head: Sequence[str], rows: Iterable[Sequence[str]], markdown: bool = False
) -> str:
  """Rows under a head, as text or Markdown."""
  rows = [tuple(map(str, r)) for r in rows]
  if markdown:
    body = ["| " + " | ".join(r) + " |" for r in [tuple(head), *rows]]
    return "\n".join([body[0], "|" + "---|" * len(head), *body[1:]])
  widths = [max(map(len, c)) for c in zip(head, *rows, strict=True)]
  pad = lambda r: "  ".join(x.ljust(w) for x, w in zip(r, widths, strict=True))
  return "\n".join(pad(r).rstrip() for r in [tuple(head), *rows])


def _gib(size: float) -> str:
  if math.isnan(size):
    return "unknown"
  return f"{size / GIB:.2f}" if size >= 0.005 * GIB else f"{size / GIB:.4f}"


def _number(x: float) -> str:
  return "unknown" if math.isnan(x) else f"{x:.3g}"


def _seconds(x: float) -> str:
  if math.isnan(x):
    return "unknown"
  return f"{x:.2f} s" if x >= 0.1 else f"{1000 * x:.3g} ms"
