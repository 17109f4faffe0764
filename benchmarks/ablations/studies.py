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
SEEN_TWICE = "color change n"  # clips with an object in both quarters


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


def above_true(of: Callable[[float, float], float], sign: int = 1):
  """By how much generated latents have more blocks than true ones.

  Args:
    of: something of the two correlations.
    sign: 1 if blocks make it larger, -1 if they make it smaller.
  """

  def excess(record: Record) -> float:
    names = ("blocks", "blocks of true clips")
    made, true = (of(**at_end(name)(record)) for name in names)
    return sign * (made - true)

  return excess


def later(name: str, of: str = "n") -> Callable[[Record], float]:
  """The mean over what is read of long clips after the training length.

  Each quarter has the weight `of`; where that was not counted, the clips whose
  object is inside.
  """

  def weight(window: Mapping[str, float]) -> float:
    n = window.get(of, math.nan)
    return n if math.isfinite(n) else window["n"]

  def mean(record: Record) -> float:
    read = [w for w in record["long"]["windows"][1:] if math.isfinite(w[name])]
    n = sum(map(weight, read))
    return sum(weight(w) * w[name] for w in read) / n if n else math.nan

  return mean


def counts_colors(record: Record) -> bool:
  """Whether it says how many clips a change of color was read in."""
  windows = record["long"]["windows"]
  return all(math.isfinite(w.get(SEEN_TWICE, math.nan)) for w in windows)


def how_many(of: str) -> Callable[[Record], float]:
  """The quarters of long clips that such a mean is over."""
  return lambda record: sum(w[of] for w in record["long"]["windows"][1:])


def difference(inside: float, across: float) -> float:
  """Of the correlations."""
  return inside - across


def change(inside: float, across: float) -> float:
  """What correlations lack to 1 within a block, as a share of that across."""
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
  "blocks above true": Measure(above_true(change, -1), "{:+.3f}"),
  "difference above true": Measure(above_true(difference), "{:+.3f}"),
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
  "color change later": Measure(later("color change", SEEN_TWICE)),
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
    claimed: those that the claim is about, which alone decide; empty if there
      is none.
    also: those that are compared besides.
    against: the variants that the claim is about; empty if all others.
    over_compute: whether it is judged at earlier steps and equal FLOPs, too.
    likely: why this size may show the opposite; a guess.
  """

  title: str
  claim: str
  ran: str
  variants: tuple[str, ...]
  columns: tuple[str, ...]
  claimed: tuple[str, ...] = ()
  also: tuple[str, ...] = ()
  against: tuple[str, ...] = ()
  over_compute: bool = False
  likely: str = ""

  @property
  def compared(self) -> tuple[str, ...]:
    """All measures that are compared."""
    return self.claimed + self.also


MORE_BLOCKS = "blocks above true"
BLOCKS = (
  "inside a block",
  "across",
  "change within / across",
  MORE_BLOCKS,
  "difference above true",
)
LATER = ("kept later", "still later", "color change later")
LONG = ("kept at first", *LATER)
SHOWN = (*LONG, "quarters later", "of right ones")
STUDIES = {
  "spatial": Study(
    "Spatial pyramid",
    "Three stages learn faster than flow matching at full resolution, at equal "
    "compute (Fig. 7).",
    "Both see rows of as many places, so a step costs nearly the same. The "
    "pyramid's segments are shorter, and more of them fit into a row. With one "
    "stage every level of the history is of full resolution, so that the "
    "compressed history goes as well; only the study on images has nothing but "
    "the pyramid of Fig. 7. Of the sampler's steps a stage's last moves nearly "
    "nothing, as in the published one: 9 of 12 count for the pyramid, 11 for "
    "the other.",
    (BASE, "1 stage"),
    SCORES,
    claimed=SCORES,
    over_compute=True,
  ),
  "spatial on images": Study(
    "Spatial pyramid, images",
    "As above; the paper's figure is of images.",
    "Models that see single images alone, at rows of as many places as above. "
    "True images have a Frechet distance of {distance:.3f} to true ones of "
    "other captions.",
    (STILLS_BASE, "1 stage, images"),
    SCORES,
    claimed=SCORES,
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
    claimed=SCORES,
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
    "{across:.3f}. *Change within / across* is (1 - inside) / (1 - across) of "
    "these correlations: 0 is perfect blocks, and it does not shrink only "
    "because latents are smoother everywhere. *Blocks above true* is how far "
    "it is below that of true latents, more than 0 if there are more blocks "
    "than in those. *Difference above true* is inside - across, less that of "
    "true latents; it shrinks where latents are smoother, so it is shown and "
    "decides nothing.",
    (BASE, "no corrective noise"),
    (*BLOCKS, *SCORES),
    claimed=(MORE_BLOCKS,),
    also=SCORES,
  ),
  "renoising on images": Study(
    "Corrective renoising, images",
    "As above; the paper's figure is of images.",
    "The weights of *pyramid, images* sampled with and without it; true "
    "latents have {inside:.3f} and {across:.3f}.",
    (STILLS_BASE, "no corrective noise, images"),
    (*BLOCKS, *SCORES),
    claimed=(MORE_BLOCKS,),
    also=SCORES,
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
    claimed=(MORE_BLOCKS,),
    also=SCORES,
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
    claimed=("color drift", "shape drift", "flicker", *LATER),
    also=(*SCORES, "kept at first"),
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
    claimed=LATER,
    also=(*SCORES, "kept at first"),
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
    claimed=("straightness", "error, n = 1", "error, n = 4"),
    also=SCORES,
  ),
  "stages": Study(
    "Number of stages",
    "The paper takes three; it compares with one alone (Fig. 7).",
    "Rows of as many places and equal sampling steps a unit, of which 11, 10, "
    "9 and 8 count for 1 to 4 stages: a stage's last moves nearly nothing. "
    "With one stage the compressed history goes as well, see above. One stage "
    "is also a control of the blocks, because it upsamples nothing.",
    (BASE, "1 stage", "2 stages", "4 stages"),
    (*SCORES, *BLOCKS),
    claimed=SCORES,
    against=("1 stage",),
  ),
  "stages on images": Study(
    "Number of stages, images",
    "As above.",
    "Single images alone, on which the same model learns more: rows of as many "
    "places and equal sampling steps; one stage is the control of the blocks.",
    (STILLS_BASE, "1 stage, images", "2 stages, images", "4 stages, images"),
    (*SCORES, *BLOCKS),
    claimed=SCORES,
    against=("1 stage, images",),
  ),
  "gamma": Study(
    "Covariance of the corrective noise",
    "Gamma of -1/3 (1/3 here) keeps the most signal at a jump (Sec. 3.2, "
    "Eq. 15). That is derived; what is judged here is whether more is learned.",
    "At gamma 0 nothing is kept: every stage starts from noise. It is also a "
    "control of the blocks, because no signal is upsampled.",
    (BASE, "gamma 0", "gamma 1/9", "gamma 2/9"),
    (*SCORES, *BLOCKS),
    claimed=SCORES,
  ),
  "gamma on images": Study(
    "Covariance of the corrective noise, images",
    "As above.",
    "Single images alone; gamma 0 is the control of the blocks.",
    (STILLS_BASE, *(f"gamma {g}, images" for g in ("0", "1/9", "2/9"))),
    (*SCORES, *BLOCKS),
    claimed=SCORES,
    likely="small differences between distances of few images; by what "
    "captions ask for 1/3 and 2/9 are level",
  ),
  "sampling": Study(
    "Stage sampling",
    "The paper draws stages evenly; no claim is made.",
    "Evenly against 1:2:1.",
    (BASE, "stages 1:2:1"),
    SCORES,
    also=SCORES,
  ),
  "sampling on images": Study(
    "Stage sampling, images",
    "As above.",
    "Evenly against 1:2:1, on single images alone.",
    (STILLS_BASE, "stages 1:2:1, images"),
    SCORES,
    also=SCORES,
  ),
}
