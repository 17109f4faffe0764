"""The jump from the end of one stage to the start of the next.

A stage ends at x ~ N(e Down(x1), (1 - e)^2 I). Nearest upsampling repeats every
value in a 2 x 2 block, so Up(x) ~ N(e Up(Down(x1)), (1 - e)^2 B), where B is 1
within a block and 0 elsewhere (Eq. 12). The next stage starts from
N(s Up(Down(x1)), (1 - s)^2 I). Rescaling and noise n' with covariance S lead
from the one to the other:

  x_next = (s / e) Up(x) + beta n',   n' ~ N(0, S)                    Eq. 13
  (s / e)^2 (1 - e)^2 B + beta^2 S = (1 - s)^2 I                      Eq. 14

With 1 on the diagonal of S and the paper's gamma g in [-1/3, 0] between the
four values of a block,

  e = s sqrt(1 - g) / ((1 - s) sqrt(-g) + s sqrt(1 - g))              Eq. 25
  beta = (1 - s) / sqrt(1 - g)                                        Eq. 27

and at g = -1/3, where s keeps the most signal,

  e = 2 s / (1 + s),   beta = sqrt(3) (1 - s) / 2                     Eq. 15

Here gamma = -g, as in the released code. At gamma = 0 the only solution is
s = 0: all signal is dropped and the stage starts from fresh noise. A bilinear
Up has another covariance than B; then the jump is approximate.
"""

import math

import einops
import jax
import jax.numpy as jnp

from pyramid_jax.flow.resample import up
from pyramid_jax.flow.schedule import Schedule


def rescale_and_weight(
  original_start: float, gamma: float
) -> tuple[float, float]:
  """The factors (s / e, beta) of Eq. 13 for a stage.

  Args:
    original_start: 1 - e, sigma at the end of the stage before.
    gamma: in [0, 1/3], the negative of the paper's.
  """
  e = 1 - float(original_start)
  # s / e, also where both are 0
  scale = math.sqrt(gamma)
  rescale = scale / (math.sqrt(1 + gamma) * (1 - e) + scale * e)
  return rescale, (1 - rescale * e) / math.sqrt(1 + gamma)


def block_covariance(gamma: float) -> jax.Array:
  """S of Eq. 14 for one block, [4, 4]: 1 and, off the diagonal, -gamma."""
  return (1 + gamma) * jnp.eye(4) - gamma * jnp.ones((4, 4))


def block_noise(
  eps: jax.Array, gamma: float, factor: jax.Array | None = None
) -> jax.Array:
  """Turns unit normal noise [..., H, W, C] into corrective noise (Eq. 13, 14).

  S has the eigenvalue 1 - 3 gamma along the block's mean and 1 + gamma across,
  so scaling the two parts by the roots multiplies by the symmetric root of S,
  exactly, the singular end gamma = 1/3 included: there every block sums to 0.

  Args:
    eps: unit normal, H and W even.
    gamma: in [0, 1/3].
    factor: [4, 4] any other root of S, S = factor factor^T, for blocks in the
      order top left, top right, bottom left, bottom right.
  """
  if factor is not None:
    blocks = einops.rearrange(
      eps, "... (H p) (W q) C -> ... H W C (p q)", p=2, q=2
    )
    return einops.rearrange(
      blocks @ factor.T, "... H W C (p q) -> ... (H p) (W q) C", p=2, q=2
    )
  mean = einops.reduce(eps, "... (H p) (W q) C -> ... H W C", "mean", p=2, q=2)
  along, across = math.sqrt(max(1 - 3 * gamma, 0.0)), math.sqrt(1 + gamma)
  return across * eps + (along - across) * up(mean)


def stage_jump(
  x: jax.Array,
  schedule: Schedule,
  stage: int,
  noise: jax.Array,
  upsample: str = "nearest",
) -> jax.Array:
  """Moves a latent from the end of stage - 1 to the start of `stage` (Eq. 13).

  Args:
    x: [..., H, W, C].
    schedule: of the pyramid.
    stage: the one that begins, >= 1.
    noise: [..., 2H, 2W, C] corrective noise, see `block_noise`.
    upsample: Up, "nearest" or "bilinear".

  Returns:
    [..., 2H, 2W, C].
  """
  rescale, weight = rescale_and_weight(
    schedule.original_start[stage], schedule.gamma
  )
  return rescale * up(x, upsample) + weight * noise
