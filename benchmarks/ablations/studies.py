"""What is asked: claims of the paper, and the measures that decide."""

import dataclasses
import math
from collections.abc import Callable, Mapping

Record = Mapping
BASE = "pyramid"
STILLS_BASE = "pyramid, images"
MOTION_BASE = "autoregressive"  # of what starts from images
DISTANCE = "Frechet distance"
SCORES = (DISTANCE, "attributes", "all correct")
LAST = -1  # the end of training


@dataclasses.dataclass(frozen=True)
class Measure:
  """A number of a record.

  Attributes:
    of: how it is read.
    format: how it is written.
    smaller: whether a smaller one is better.
  """

  of: Callable[[Record], float]
  format: str = "{:.2f}"
  smaller: bool = True


def at_end(name: str) -> Callable[[Record], float]:
  """A value at the end of training."""
  return lambda record: list(record["over compute"].values())[LAST][name]


def excess(of: Callable[[float, float], float]) -> Callable[[Record], float]:
  """How far something of the two correlations is from that of true latents."""

  def distance(record: Record) -> float:
    names = ("blocks", "blocks of true clips")
    made, true = (of(**at_end(name)(record)) for name in names)
    return abs(made - true)

  return distance


def later(name: str, of: str = "n") -> Callable[[Record], float]:
  """The mean over what is read of long clips after the training length."""

  def mean(record: Record) -> float:
    read = [w for w in record["long"]["windows"][1:] if math.isfinite(w[name])]
    n = sum(w[of] for w in read)
    return sum(w[of] * w[name] for w in read) / n if n else math.nan

  return mean


def how_many(of: str) -> Callable[[Record], float]:
  """The quarters of long clips that such a mean is over."""
  return lambda record: sum(w[of] for w in record["long"]["windows"][1:])


def difference(inside: float, across: float) -> float:
  """Of the correlations."""
  return inside - across


def change(inside: float, across: float) -> float:
  """Mean squared change within a block, as a share of that across borders."""
  return (1 - inside) / (1 - across)


MEASURES = {
  "Frechet distance": Measure(at_end("frechet"), "{:.3f}"),
  "attributes": Measure(at_end("attributes"), "{:.1%}", smaller=False),
  "all correct": Measure(at_end("all correct"), "{:.1%}", smaller=False),
  "flicker": Measure(at_end("flicker")),
  "color drift": Measure(at_end("color drift")),
  "shape drift": Measure(at_end("shape drift"), "{:.3f}"),
  "inside a block": Measure(lambda r: at_end("blocks")(r)["inside"], "{:.3f}"),
  "across": Measure(lambda r: at_end("blocks")(r)["across"], "{:.3f}"),
  "change within / across": Measure(
    lambda r: change(**at_end("blocks")(r)), "{:.3f}"
  ),
  "change, off by": Measure(excess(change), "{:.3f}"),
  "difference, off by": Measure(excess(difference), "{:.3f}"),
  "straightness": Measure(
    lambda r: sum(r["paths"]["straightness"]) / len(r["paths"]["straightness"]),
    "{:.3f}",
  ),
  **{
    f"error, n = {n}": Measure(lambda r, n=n: r["paths"]["errors"][n], "{:.3f}")
    for n in ("1", "2", "4", "8", "16")
  },
  "kept at first": Measure(
    lambda r: r["long"]["windows"][0]["kept"], "{:.1%}", smaller=False
  ),
  "kept later": Measure(later("kept"), "{:.1%}", smaller=False),
  "still later": Measure(later("still", "still n"), "{:.1%}", smaller=False),
  "color change later": Measure(later("color change")),
  "quarters later": Measure(how_many("n"), "{:.0f}"),
  "of right ones": Measure(how_many("still n"), "{:.0f}"),
}


@dataclasses.dataclass(frozen=True)
class Study:
  """One comparison.

  Attributes:
    title: of its section.
    claim: of the paper, with its place.
    ran: what was compared.
    variants: the better one by the claim first; each other is compared with
      it.
    columns: measures that are shown.
    decided_by: those that the claim is about.
    over_compute: whether it is judged at earlier steps and equal FLOPs, too.
    likely: why this size may show the opposite; a guess.
  """

  title: str
  claim: str
  ran: str
  variants: tuple[str, ...]
  columns: tuple[str, ...]
  decided_by: tuple[str, ...]
  over_compute: bool = False
  likely: str = ""


BLOCKS = (
  "inside a block",
  "across",
  "change within / across",
  "change, off by",
  "difference, off by",
)
LONG = ("kept at first", "kept later", "still later", "color change later")
SHOWN = (*LONG, "quarters later", "of right ones")
STUDIES = {
  "spatial": Study(
    "Spatial pyramid",
    "Three stages learn faster than flow matching at full resolution, at equal "
    "compute (Fig. 7).",
    "Both see rows of as many tokens, so a step costs nearly the same. The "
    "pyramid's segments are shorter, and more of them fit into a row. Of the "
    "sampler's steps a stage's last moves nearly nothing, as in the published "
    "one: 9 of 12 count for the pyramid, 11 for the other.",
    (BASE, "1 stage"),
    SCORES,
    SCORES,
    over_compute=True,
  ),
  "spatial on images": Study(
    "Spatial pyramid, images",
    "As above; the paper's figure is of images.",
    "Models that see single images alone, at rows of as many tokens as above. "
    "True images have a Frechet distance of {distance:.3f} to true ones of "
    "other captions. The same was run before on latents of the VAE that the "
    "clips have: 43.8% (41.4% to 47.7%) against 31.2% (28.1% to 32.8%) all "
    "correct, which by itself shows the claim; of both together the pyramid is "
    "better in 6 of 6 pairs of a seed, but the ranges overlap.",
    (STILLS_BASE, "1 stage, images"),
    SCORES,
    SCORES,
    over_compute=True,
  ),
  "temporal": Study(
    "Temporal pyramid",
    "Frame by frame with a compressed history learns faster than the full "
    "sequence at once (Fig. 8).",
    "Both go on from the same images. The full sequence has three stages as "
    "well, all its frames are targets, and each sees every other. Little is "
    "saved in clips of 3 units: the longest segment has the tokens of 2.25 "
    "units frame by frame, and of 3 at once; of the paper's 31 units those of "
    "4, and of 31.",
    (MOTION_BASE, "full sequence"),
    (*SCORES, "flicker"),
    SCORES,
    over_compute=True,
    likely="short clips, in which frame by frame saves nearly nothing and its "
    "later frames build on own first ones that are mostly wrong after so "
    "little training; at once, every frame is made with a view of all",
  ),
  "renoising": Study(
    "Corrective renoising",
    "Without corrective noise at the jumps between stages the blocks of "
    "upsampling stay visible (Fig. 10).",
    "The same weights sampled with and without it; without, a jump only "
    "rescales. Correlation of neighbouring values of latents within 2 x 2 "
    "blocks and across their borders; of true latents {inside:.3f} and "
    "{across:.3f}. Two things are compared with those: the difference of the "
    "two; and the mean squared change from neighbour to neighbour within "
    "blocks as a share of that across borders, (1 - inside) / (1 - across), "
    "where 0 is perfect blocks. The second does not shrink only because "
    "latents without noise are smoother everywhere.",
    (BASE, "no corrective noise"),
    (*BLOCKS, *SCORES),
    (*BLOCKS[-2:], *SCORES),
    likely="little training, after which latents without the noise are "
    "smoother everywhere, which makes the difference small whatever their "
    "blocks are; the change within blocks allows for that and does not decide",
  ),
  "renoising on images": Study(
    "Corrective renoising, images",
    "As above; the paper's figure is of images.",
    "The weights of *pyramid, images* sampled with and without it; true "
    "latents have {inside:.3f} and {across:.3f}.",
    (STILLS_BASE, "no corrective noise, images"),
    (*BLOCKS, *SCORES),
    (*BLOCKS[-2:], *SCORES),
    likely="a small model with few steps a stage, which leaves some of the "
    "added noise in the result; guidance, which sharpens it",
  ),
  "renoising after images": Study(
    "Corrective renoising, after images",
    "As above.",
    "The same weights sampled with and without it, where they show objects; "
    "true latents have {inside:.3f} and {across:.3f}. A token of this "
    "transformer is itself a block of 2 x 2 latents, so that what tells blocks "
    "apart may be its tokens as well as the upsampling.",
    (MOTION_BASE, "no corrective noise, after images"),
    (*BLOCKS, *SCORES, "flicker"),
    (*BLOCKS[-2:], *SCORES),
    likely="a small model with little training, which leaves some of the added "
    "noise in the result, and guidance; after the longer training of "
    "docs/shapes.md both are level",
  ),
  "attention": Study(
    "Causal attention",
    "With bidirectional attention, where what is being generated changes the "
    "history's features, later frames lose consistency (Fig. 11).",
    "Both go on from the same images, of which each is alone in its row's "
    "segment. Consistency within the training length, and up to four times "
    "that length: share of objects that are as asked in the quarters after the "
    "first, and how far their color is from that in the first. A quarter "
    "counts if its object, moving as asked, would be whole in the frame for "
    "half of it. *Still* is the share of those whose object was right in the "
    "first quarter, *of right ones* their number: so few that seeds differ "
    "widely.",
    (MOTION_BASE, "bidirectional"),
    (*SCORES, "flicker", "color drift", "shape drift", *SHOWN),
    (*SCORES, "color drift", "shape drift", "flicker", *LONG),
    likely="a small model with little training, to which a history that is "
    "read again at every step, in view of what is being made, gives more than "
    "its changing features cost in three units",
  ),
  "corruption": Study(
    "Corrupted history",
    "Noise on the history in training keeps errors from adding up (Sec. 3.3).",
    "Both go on from the same images. Clips of 65 frames, four times the "
    "training length, in quarters as above.",
    (MOTION_BASE, "clean history"),
    (*SCORES, *SHOWN),
    (*SCORES, *LONG),
  ),
  "coupling": Study(
    "Coupled endpoints",
    "One noise for both ends of a stage makes its paths straight (Sec. 3.2, "
    "Eq. 9-10).",
    "Independent noise has the same law at each end. *Straightness* is the "
    "mean squared deviation of the velocity along a path from its mean, as a "
    "share of the mean's square; 0 is straight. The *error* of n steps a stage "
    "is the distance to 64 steps from the same noise, as a share of the "
    "samples' deviation; of n steps, as in the published sampler, the last is "
    "nearly nothing, so that 1 and 2 are alike. Both without guidance.",
    (BASE, "independent noise"),
    ("straightness", *(f"error, n = {n}" for n in (1, 2, 4, 8, 16)), *SCORES),
    ("straightness", "error, n = 1", "error, n = 4", *SCORES),
  ),
  "stages": Study(
    "Number of stages",
    "The paper takes three; it compares with one alone.",
    "Equal tokens a step and equal sampling steps a unit, of which 11, 10, 9 "
    "and 8 count for 1 to 4 stages: a stage's last moves nearly nothing.",
    (BASE, "1 stage", "2 stages", "4 stages"),
    SCORES,
    SCORES,
  ),
  "stages on images": Study(
    "Number of stages, images",
    "As above.",
    "Single images alone, on which the same model learns more: equal tokens a "
    "step and equal sampling steps.",
    (
      STILLS_BASE,
      "1 stage, images",
      "2 stages, images",
      "4 stages, images",
    ),
    SCORES,
    SCORES,
    likely="of 8 x 8 latents the third stage has 2 x 2, which say little of an "
    "object and take a third of the training and of the sampler's steps",
  ),
  "gamma": Study(
    "Covariance of the corrective noise",
    "Gamma of -1/3 (1/3 here) keeps the most signal at a jump (Sec. 3.2, "
    "Eq. 15).",
    "At gamma 0 nothing is kept: every stage starts from noise.",
    (BASE, "gamma 0", "gamma 1/9", "gamma 2/9"),
    SCORES,
    SCORES,
  ),
  "sampling": Study(
    "Stage sampling",
    "The paper draws stages evenly; no claim is made.",
    "Evenly against 1:2:1.",
    (BASE, "stages 1:2:1"),
    SCORES,
    SCORES,
  ),
}
