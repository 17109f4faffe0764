"""The oracle reads true clips of all the sizes that are trained on."""

import pytest

from pyramid_jax.data import shapes
from pyramid_jax.evals import shapes_score


@pytest.mark.parametrize(
  "clips, frames, height, width, objects",
  [
    (200, 17, 64, 64, 1),
    (24, 97, 128, 128, 1),
    (40, 17, 64, 64, 2),
    (12, 97, 128, 128, 2),
  ],
)
def test_each_attribute_is_right_and_lasts_in_99_of_100_clips(
  clips, frames, height, width, objects
):
  records = []
  for i in range(clips):
    clip = shapes.render(
      i, 11, frames, height, width, "heldout", float(objects == 2)
    )
    record = shapes_score.score(clip.caption, clip.video, frames)
    assert len(record["asked"]["objects"]) == objects
    records.append({"combination": "", **record})
  rates = shapes_score.summary(records)["attributes"]
  assert set(rates) == set(shapes_score.ATTRIBUTES)
  lasting = [record["lasts"] for record in records]
  rates["lasts"] = shapes_score.Rate(sum(lasting), clips)
  low = {name: rate for name, rate in rates.items() if rate.hits < 0.99 * clips}
  assert not low, {name: str(rate) for name, rate in low.items()}
