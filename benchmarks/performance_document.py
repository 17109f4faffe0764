"""Writes docs/performance.md from the lines in docs/performance.jsonl.

  python benchmarks/performance_document.py

The lines are those of accelerator.py, with and without --compile, and of
compile_attention.py and compile_modulation.py; of lines of the same, the last
counts.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from accelerator_cases import PARTS, cases, having, lines_of  # noqa: E402

from pyramid_jax.cost import report  # noqa: E402

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGE, KEPT = DOCS / "performance.md", DOCS / "performance.jsonl"
NONE = "not measured"
AIMS = """| | aim, one H100 |
|---|---|
| training, MFU | 45% |
| attention forward, share of the matrix peak | 40% |
| attention backward, share of the matrix peak | 30% |
| latents of a 384p clip of 5 s | 6 s |"""
TEXT = """# Performance on accelerators

Made by `python benchmarks/performance_document.py` from the lines of

```
python benchmarks/accelerator.py --kept=docs/performance.jsonl
```

on the device at hand: attention kernels beside the XLA form, with their errors
against float64; the training step of the 2 B MM-DiT on packed rows of 16,384
tokens, for each remat policy and number of rows; a clip of 5 seconds at 384p
and at 768p. FLOPs are those that the mathematics needs: of attention only the
pairs that a query sees. Seconds are the median of ten, of a clip of three. The
lines also have the least and the most.

{aims}

What limits a program is what its roofline says, with the efficiencies that
`pyramid-plan` assumes; seconds reach from all overlapping to nothing
overlapping. It counts all that is executed: of attention the pairs in all tiles
that the kernels visit, or every pair without kernels. Larger machines are
`pyramid-plan`'s, and in [scale.md](scale.md).
{compiled}

{measured}

{tables}

## Which targets compile

By `python benchmarks/compile_attention.py >> docs/performance.jsonl`, without a
device: attention and its gradients of a row of 8192 tokens a chip, and of four
layers whose rows lie on two chips each, in a loop under the remat policy that
keeps attention. How often a program calls its forward and its backward kernels
(one for the queries, one for the keys), and the seconds that compiling took on
a shared core.

{kernels}

## What modulation per segment costs

By `python benchmarks/compile_modulation.py h100:1 v5p:2x2x1`, without a device:
four layers of the 2 B MM-DiT in a loop, forward and backward with remat
matmuls, a row of 16,384 tokens and 16 segments on one device. Every token is
told the shift, scale and gate of its own segment, float32; the table has the
ways to do so beside one modulation for the whole row, which is wrong for packed
rows and the least that it may cost.

{modulation}

{verdict}
"""
VERDICT = """The models gather on GPUs and multiply on TPUs. Over the bound the
gather moves 1.5 GiB a layer more on an H100 (11%), the product 3.3; on a v5p
the gather 7.3 GiB (41%), the product 1.9 (11%), with no more memory than the
gather. Both give the same values (on a CPU to the bit). Six modulations of
every token would be 576 MiB a layer: they are not kept."""


def kept() -> list[dict]:
  """The lines so far."""
  return lines_of(KEPT)


def page(lines: list[dict]) -> str:
  """The document."""
  measured = [x for x in lines if "device" in x and "tiny" not in x]
  ahead = [x for x in lines if "programs" in x and "tiny" not in x]
  devices = dict.fromkeys(x["device"] for x in measured)
  machines = dict.fromkeys(x["compiled_for"] for x in ahead)
  tables = []
  for device in devices or [None]:
    of_device = [x for x in measured if x["device"] == device]
    tables += [f"## {device}", ""] if device else ["## Figures", ""]
    tables += [f"{x}\n" for x in told_versions(of_device)]
    tables += [part_table(part, of_device, ahead) + "\n" for part in PARTS]
  return TEXT.format(
    aims=AIMS,
    compiled=(
      f"Compiled, by --compile, for {', '.join(machines)}: the cases that have "
      "a memory below; the others were not."
      if machines
      else "No case has been compiled yet (--compile)."
    ),
    measured=(
      f"Measured on {', '.join(devices)}."
      if devices
      else "No accelerator has run the script yet."
    ),
    tables="\n".join(tables).strip(),
    kernels=kernels(lines),
    modulation=modulation(lines),
    verdict=VERDICT,
  )


def told_versions(lines: list[dict]) -> list[str]:
  """A sentence for each set of versions that lines were measured with."""
  found = {}
  for x in lines:
    versions = x.get("versions", {})
    said = ", ".join(
      f"{name} {' '.join(version.split())}"
      for name, version in versions.items()
    )
    found.setdefault(said, []).append(x["part"])
  sentences = []
  for said, parts in found.items():
    which = ", ".join(dict.fromkeys(parts)) if len(found) > 1 else "All"
    sentences.append(f"{which}: {said}." if said else f"{which}: not known.")
  return sentences


def part_table(part: str, measured: list[dict], ahead: list[dict]) -> str:
  """A row for each case of a part: compiled, measured."""
  head = {
    "attention": ("attention", "measured", "errors", "roofline", "limit",
                  "GiB compiled"),
    "train": ("training step", "measured", "MFU", "roofline", "limit",
              "GiB compiled", "GiB measured"),
    "generate": ("clip", "measured", "roofline of the latents", "limit",
                 "GiB compiled", "GiB measured"),
  }[part]  # fmt: skip
  row = {"attention": of_attention, "train": of_train, "generate": of_clip}
  rows = [
    row[part](case, last(measured, case), last(ahead, case).get("programs", []))
    for case in cases([part])
  ]
  return report.table(head, rows, markdown=True)


def last(lines: list[dict], case: dict) -> dict:
  """The last line of a case, one that failed if there is no other."""
  failed = [x for x in lines if case.items() <= x.items()]
  return [{}, *failed, *having(lines, **case)][-1]


def roofline(programs: list[dict]) -> tuple[str, str]:
  """Seconds and what binds them, all programs as often as they run."""
  known = [x for x in programs if "seconds" in x]
  if not known:
    refused = programs and not all(x["fits"] for x in programs)
    return "-", "memory there is" if refused else "-"
  fast, slow = (
    sum(x.get("times", 1) * x[name] for x in known)
    for name in ("seconds", "serial_seconds")
  )
  binds = dict.fromkeys(x["binds"] for x in known)
  return f"{fast:.3g} to {slow:.3g} s", ", ".join(binds)


def gib(programs: list[dict]) -> str:
  """The most that a program takes."""
  if not programs:
    return "-"
  most = max(x["gib"] for x in programs)
  return f"{most:.1f}" + (
    "" if all(x["fits"] for x in programs) else ": too much"
  )


def taken(line: dict) -> str:
  """Measured seconds, or why there are none."""
  if "out_of_memory" in line:
    return "does not fit"
  if "failed" in line:
    return f"{NONE}: {line['failed']}"
  return f"{line['seconds']:.3g} s" if "seconds" in line else NONE


def of_attention(case: dict, line: dict, programs: list[dict]) -> tuple:
  cells = []
  for name in ("forward", "backward"):
    if name not in line:
      continue
    share = line[name]["share"]
    of_peak = f" ({share:.0%} of the peak)" if share is not None else ""
    cells.append(f"{name} {1000 * line[name]['seconds']:.3g} ms{of_peak}")
  errors = [f"{k} {v:.1g}" for k, v in line.get("cut_errors", {}).items()]
  took = ", ".join(cells) or taken(line)
  return (f"{case['attention']}, {case['dtype']}", took,
          ", ".join(errors) or "-", *roofline(programs),
          gib(programs))  # fmt: skip


def of_train(case: dict, line: dict, programs: list[dict]) -> tuple:
  if line.get("estimate"):
    programs = [line["estimate"]]
  limits = roofline(programs)
  if why := line.get("estimate_error"):
    limits = "none: " + why.replace("|", "/"), "-"
  mfu = line.get("mfu")
  return (
    f"{case['attention']}, remat {case['remat']}, rows {case['rows']}",
    taken(line), "-" if mfu is None else f"{mfu:.0%}", *limits,
    gib(programs), memory(line),
  )  # fmt: skip


def of_clip(case: dict, line: dict, programs: list[dict]) -> tuple:
  names = ("text", "transformer", "vae")
  cells = [f"{x} {line[x]['seconds']:.3g} s" for x in names if x in line]
  units = [x for x in programs if x["program"].startswith("units")]
  return (f"{case['preset']}, {case['seconds']} s",
          ", ".join(cells) or taken(line), *roofline(units), gib(programs),
          memory(line))  # fmt: skip


def memory(line: dict) -> str:
  return f"{line['peak_gib']:.1f}" if "peak_gib" in line else "-"


def kernels(lines: list[dict]) -> str:
  """A row for each target and program."""
  found = {}
  for x in lines:
    if x["part"] == "kernels":
      found[x["compiled_for"], x["program"]] = x
  if not found:
    return "Not compiled yet."
  rows = []
  for (target, program), x in found.items():
    forward, *backward = x["calls"].values()
    rows.append((target, program.replace("_", " "), forward,
                 " + ".join(map(str, backward)), x["compile_seconds"],
                 f"{x['temporary_mib']:.0f}"))  # fmt: skip
  head = ("target", "program", "forward", "backward", "compile s",
          "temporary MiB a chip")  # fmt: skip
  return report.table(head, rows, markdown=True)


def modulation(lines: list[dict]) -> str:
  """A row for each target and way."""
  found = {}
  for x in lines:
    if x["part"] == "modulation":
      found[x["compiled_for"], x["way"]] = x
  if not found:
    return "Not compiled yet."
  rows = [
    (*key, f"{x['temporary_mib']:,.0f}", f"{x['gib_a_layer']:.2f}")
    for key, x in found.items()
  ]
  head = ("target", "modulation", "temporary MiB", "GiB moved a layer")
  return report.table(head, rows, markdown=True)


if __name__ == "__main__":
  PAGE.write_text(page(kept()))
