"""Random packed rows, and attention and its gradients by the definition."""

import jax.numpy as jnp
import numpy as np

from pyramid_jax.attention import ranges


def packing(rng, J, segments=4, padding=9):
  """Random segments of random frames behind each other, padding last."""
  cuts = rng.choice(np.arange(1, J - padding), segments - 1, replace=False)
  bounds = [0, *sorted(cuts), J - padding]
  segment, frame = np.zeros(J, np.int32), np.zeros(J, np.int32)
  for i, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
    segment[a:b] = i + 1
    frame[a:b] = np.sort(rng.integers(0, 5, b - a))
  return segment, frame


def rows(seed=0, B=3, J=70, N=4):
  """segment, frame, q, k, v of random rows."""
  rng = np.random.default_rng(seed)
  segment, frame = (
    np.stack(a) for a in zip(*[packing(rng, J) for _ in range(B)], strict=True)
  )
  q, k, v = rng.normal(size=(3, B, J, N, 8)).astype(np.float32)
  return segment, frame, q, k, v


def key_ranges(segment, frame, causal=True):
  """First and one past the last key of each token, as numpy arrays."""
  start, end = ranges.key_ranges(
    jnp.asarray(segment), jnp.asarray(frame), causal=causal
  )
  return np.asarray(start), np.asarray(end)


def pairs(start, end, keys):
  """[B, Q, R]: whether the query's range holds the key."""
  place = np.arange(keys)
  return (place >= start[..., None]) & (place < end[..., None])


def dense_mask(segment, frame, causal=True):
  """Every pair, one by one, as the words say."""
  same = (segment[:, :, None] == segment[:, None]) & (segment[:, None] > 0)
  return same & (frame[:, :, None] >= frame[:, None]) if causal else same


def dense(q, k, v, mask):
  """Softmax in float64; a query that sees nothing gives zeros."""
  weights, _, _, v = _softmax(q, k, v, mask)
  return np.einsum("bnqr,brnk->bqnk", weights, v)


def dense_gradients(q, k, v, mask, grad):
  """Gradients of q, k, v in float64, from that of the result."""
  weights, q, k, v = _softmax(q, k, v, mask)
  dweights = np.einsum("bqnk,brnk->bnqr", grad, v)
  mean = (weights * dweights).sum(-1, keepdims=True)
  dlogits = weights * (dweights - mean) * q.shape[-1] ** -0.5
  return (
    np.einsum("bnqr,brnk->bqnk", dlogits, k),
    np.einsum("bnqr,bqnk->brnk", dlogits, q),
    np.einsum("bnqr,bqnk->brnk", weights, grad),
  )


def _softmax(q, k, v, mask):
  q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
  logits = np.einsum("bqnk,brnk->bnqr", q, k) * q.shape[-1] ** -0.5
  w = np.exp(logits - logits.max(-1, keepdims=True)) * mask[:, None]
  return w / np.maximum(w.sum(-1, keepdims=True), 1e-300), q, k, v
