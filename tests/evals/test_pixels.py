"""PSNR, SSIM, flicker and the picture: cases worked out by hand."""

import numpy as np
import pytest

from pyramid_jax.evals import pictures, pixels


@pytest.fixture(scope="module")
def clip():
  """Stripes that move by a pixel a frame, [3, 24, 32, 3]."""
  x = np.arange(32)[None, None, :, None] + np.arange(3)[:, None, None, None]
  stripes = 0.8 * np.sin(x / 2)
  return np.broadcast_to(stripes, (3, 24, 32, 3)).astype(np.float32)


def test_psnr_is_of_pixels_that_are_shown():
  x = np.ones((1, 2, 2, 3), np.float32)
  # range 2, error 0.2: 20 dB; beyond white is white
  np.testing.assert_allclose(pixels.psnr(x - 0.2, x), 20, rtol=1e-5)
  assert pixels.psnr(7 * x, x) == np.inf


def test_ssim_is_1_for_equal_clips_and_falls_with_noise(clip):
  noise = np.random.default_rng(0).normal(size=clip.shape)
  scores = [pixels.ssim(clip + s * noise, clip) for s in (0, 0.05, 0.2, 0.8)]
  np.testing.assert_allclose(scores[0], 1, rtol=1e-9)  # sums of float64
  assert scores == sorted(scores, reverse=True) and scores[-1] < 0.5
  # brighter by as much as the noise is strong: the same error, all structure
  gray = clip / 4
  assert pixels.ssim(gray + 0.1, gray) > 0.9
  assert pixels.ssim(gray + 0.1 * noise, gray) < 0.8


def test_ssim_of_constant_frames_is_that_of_their_means():
  x, y = (np.full((1, 11, 11, 3), v, np.float32) for v in (0.5, 0.3))
  a, b, c = 0.75, 0.65, 0.01**2  # black is 0, white 1
  expected = (2 * a * b + c) / (a**2 + b**2 + c)
  np.testing.assert_allclose(pixels.ssim(x, y), expected, rtol=1e-5)
  assert np.isnan(pixels.ssim(x[:, :10], y[:, :10]))


def test_flicker_is_the_mean_change_from_frame_to_frame(clip):
  ramp = np.linspace(-1, 1, 5)[:, None, None, None] * np.ones((1, 4, 4, 3))
  np.testing.assert_allclose(pixels.flicker(ramp), 0.5)
  assert pixels.flicker(clip[[0, 0, 0]]) == 0
  assert np.isnan(pixels.flicker(clip[:1]))
  shaken = clip + 0.1 * np.array([1, -1, 1])[:, None, None, None]
  assert pixels.flicker(shaken) > pixels.flicker(clip)


def test_the_error_map_is_1_for_black_in_place_of_white():
  x = np.ones((1, 2, 2, 3), np.float32)
  np.testing.assert_array_equal(pixels.error_map(-x, x), np.ones((1, 2, 2)))
  np.testing.assert_allclose(pixels.error_map(x - 0.5, x), 0.25)


def test_the_picture_shows_where_a_reconstruction_errs(clip):
  broken = clip.copy()
  broken[:, :12] = -clip[:, :12]  # the upper half
  sheet = pictures.comparison([clip, clip], [broken, clip])
  assert sheet.dtype == np.uint8 and sheet.shape[-1] == 3
  side, gap = pictures.SIDE, pictures.GAP
  row = side * 24 // 32 + gap  # of frames
  top, left = 2 * pictures.LINE, pictures.LABEL
  errors = sheet[top + 2 * row : top + 3 * row - gap, left : left + side]
  upper, lower = np.split(errors, 2)
  assert upper.max() == 255 and upper.mean() > 50 and not lower.any()
  # the second clip has none
  top += 3 * row + pictures.LINE
  assert not sheet[
    top + 2 * row : top + 3 * row - gap, left : left + side
  ].any()


def test_errors_are_black_then_red_then_yellow_then_white():
  colours = pictures.heat(pictures.WHITE * np.array([0, 1 / 3, 2 / 3, 1, 2]))
  np.testing.assert_allclose(
    colours,
    [[0, 0, 0], [255, 0, 0], [255, 255, 0], [255] * 3, [255] * 3],
    atol=1,  # of a byte
  )
