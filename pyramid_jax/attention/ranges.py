"""A packed row's attention mask as one range of keys per query.

Tokens stand segment by segment and, within a segment, by frame. The keys that
a query may see (same segment, frame not later than its own) are then one run
[k_start, k_end), whatever is packed.

Legend: B rows, J tokens.
"""

import jax
import jax.numpy as jnp


def key_ranges(
  segment_BJ: jax.Array, frame_BJ: jax.Array, *, causal: bool = True
) -> tuple[jax.Array, jax.Array]:
  """The keys [k_start, k_end) that each token may see.

  Args:
    segment_BJ: int32 segment of each token; 0 is padding and sees nothing.
      Tokens of a segment are contiguous.
    frame_BJ: int32 frame within the segment, not decreasing.
    causal: False lets a query see its whole segment.

  Returns:
    k_start, k_end, int32 [B, J]; equal where the range is empty.
  """
  J = segment_BJ.shape[1]
  place = jnp.arange(J, dtype=jnp.int32)[None]
  first = jnp.ones_like(segment_BJ[:, :1], bool)
  new_segment = jnp.concatenate(
    [first, segment_BJ[:, 1:] != segment_BJ[:, :-1]], 1
  )
  new_group = new_segment
  if causal:
    new_group |= jnp.concatenate(
      [first, frame_BJ[:, 1:] != frame_BJ[:, :-1]], 1
    )
  start = jax.lax.cummax(jnp.where(new_segment, place, 0), axis=1)
  # the end of a group is where the next one starts
  starts = jnp.where(new_group, place, J)
  starts = jnp.concatenate([starts[:, 1:], jnp.full_like(starts[:, :1], J)], 1)
  end = jax.lax.cummin(starts, axis=1, reverse=True)
  valid = segment_BJ > 0
  return jnp.where(valid, start, 0), jnp.where(valid, end, 0)
