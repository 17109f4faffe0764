"""Our layers beside those of PyTorch, on random input.

Tolerances are a few float32 roundings of values of order one.
"""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from pyramid_jax.attention import attend, ranges
from pyramid_jax.flow import resample
from pyramid_jax.models import causal_conv, layers, positions, vae
from pyramid_jax.models.pure import pure

close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
  "ours, theirs",
  [
    (layers.gelu, F.gelu),
    (layers.gelu_tanh, lambda x: F.gelu(x, approximate="tanh")),
    (layers.quick_gelu, lambda x: x * torch.sigmoid(1.702 * x)),
    (layers.layer_norm, lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-6)),
    (layers.rms_norm, lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-6)),
  ],
)
def test_pointwise_layers(ours, theirs):
  x = draw(3, 5, 16)
  close(ours(jnp.asarray(x)), theirs(torch.from_numpy(x)))


@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_causal_convolution(strides, frames):
  time, space = strides
  model = pure(
    lambda rngs: causal_conv.CausalConv(
      3, 4, rngs=rngs, dtype="float32", time_stride=time, space_stride=space
    )
  )
  kernel, bias, x = draw(3, 3, 3, 3, 4), draw(4), draw(2, frames, 6, 8, 3)
  y, _ = model.apply({"kernel": kernel, "bias": bias}, x, None)
  padded = F.pad(
    torch.from_numpy(rearrange(x, "b t h w c -> b c t h w")),
    (1, 1, 1, 1, 2, 0),
  )
  weight = torch.from_numpy(rearrange(kernel, "t h w i o -> o i t h w").copy())
  z = F.conv3d(
    padded, weight, torch.from_numpy(bias), stride=(time, space, space)
  )
  close(y, rearrange(z.numpy(), "b c t h w -> b t h w c"), atol=1e-4)


def test_group_norm_within_each_frame():
  model = pure(lambda rngs: vae.GroupNorm(8, 4, rngs=rngs))
  scale, bias, x = draw(8), draw(8, seed=1), draw(2, 3, 4, 5, 8)
  params = {"affine": {"scale": scale, "bias": bias}}
  z = F.group_norm(
    torch.from_numpy(rearrange(x, "b t h w c -> (b t) c h w")), 4,
    torch.from_numpy(scale), torch.from_numpy(bias), eps=1e-6,
  )  # fmt: skip
  close(
    model.apply(params, x),
    rearrange(z.numpy(), "(b t) c h w -> b t h w c", b=2),
  )


def test_attention_over_ranges_is_masked_attention():
  segment = np.repeat([1, 2, 0], [9, 8, 3])[None]
  frame = np.array([[0] * 4 + [1] * 5 + [0] * 2 + [1] * 6 + [0] * 3])
  start, end = ranges.key_ranges(jnp.asarray(segment), jnp.asarray(frame))
  q, k, v = draw(3, 1, 20, 2, 8)
  same = segment[0, :, None] == segment[0]
  mask = same & (frame[0, :, None] >= frame[0])
  heads = [torch.from_numpy(x.swapaxes(1, 2).copy()) for x in (q, k, v)]
  z = F.scaled_dot_product_attention(*heads, attn_mask=torch.from_numpy(mask))
  out = attend.attend(q, k, v, start, end)
  valid = segment[0] > 0
  close(np.asarray(out)[:, valid], z.numpy().swapaxes(1, 2)[:, valid])


def test_down_and_up_are_interpolate():
  x = draw(2, 8, 12, 3)
  theirs = torch.from_numpy(rearrange(x, "t h w c -> t c h w"))
  for ours, options in (
    (resample.down(x), dict(scale_factor=0.5, mode="bilinear")),
    (resample.up(x), dict(scale_factor=2, mode="nearest")),
    (resample.up(x, "bilinear"), dict(scale_factor=2, mode="bilinear")),
  ):
    z = F.interpolate(theirs, **options)
    close(ours, rearrange(z.numpy(), "t c h w -> t h w c"))


def test_rotation_turns_pairs_as_complex_numbers():
  x, frame = draw(1, 6, 2, 8), np.arange(6)[None]
  frequency = 1 / 10000 ** (np.arange(0, 8, 2) / 8)
  turn = np.exp(1j * frame[..., None] * frequency)[:, :, None]
  z = torch.view_as_complex(torch.from_numpy(x).reshape(1, 6, 2, 4, 2))
  z = torch.view_as_real(z * torch.from_numpy(turn).to(torch.complex64))
  close(
    positions.rotate(x, *positions.rotary(jnp.asarray(frame), 8)),
    z.reshape(x.shape),
  )
