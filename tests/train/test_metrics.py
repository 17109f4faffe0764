"""Reports: means over the steps since the last, every step once."""

import json
import math
import time

import jax
import numpy as np
import PIL.Image
import pytest

from pyramid_jax.train.metrics import Reporter
from pyramid_jax.train.spikes import Spikes


def lines(folder):
  text = (folder / "metrics.jsonl").read_text()
  assert text.endswith("\n")
  return [json.loads(line) for line in text.splitlines()]


def write(folder, *entries, end=""):
  text = "".join(json.dumps(entry) + "\n" for entry in entries)
  (folder / "metrics.jsonl").write_text(text + end)


def report(folder, start=0, values=(), step=1, spikes=None, **more):
  reporter = Reporter(folder, start, 10, "tokens", spikes)
  for value in values:
    reporter.add(value, 100.0)
  reported = reporter.report(step, **more) if values else None
  reporter.close()
  return reported


def test_a_report_is_the_mean_of_its_steps_and_the_speed(tmp_path):
  values = [{"loss": np.float32(x), "grad_norm": 2 * x} for x in (1, 2, 6)]
  reported = report(tmp_path, values=values, step=3, skipped=1)
  (line,) = lines(tmp_path)
  assert line == {"step": 3, **reported}
  assert (line["loss"], line["grad_norm"], line["skipped"]) == (3, 6, 1)
  np.testing.assert_allclose(
    line["tokens_per_second"], 100 * line["steps_per_second"]
  )


def test_the_mfu_follows_from_the_steps_a_second(tmp_path):
  reporter = Reporter(tmp_path, 0, 10, "tokens", utilisation=lambda x: 0.1 * x)
  reporter.add({"loss": 1.0}, 1)
  reported = reporter.report(1)
  reporter.close()
  assert reported["mfu"] == 0.1 * reported["steps_per_second"]


def test_each_report_starts_anew(tmp_path):
  reporter = Reporter(tmp_path, 0, 10, "frames")
  for step, loss in enumerate((1.0, 5.0), 1):
    reporter.add({"loss": loss}, 1)
    reporter.report(step)
  reporter.close()
  assert [line["loss"] for line in lines(tmp_path)] == [1, 5]


def test_the_loss_of_a_stage_is_the_mean_over_its_segments(tmp_path):
  sums, segments = [[4.0, 1, 0], [8.0, 0, 0]], [[2, 1, 0], [4, 0, 0]]
  values = [
    {"loss": 1.0, "stage_loss": np.array(a), "stage_segments": np.array(b)}
    for a, b in zip(sums, segments, strict=True)
  ]
  reported = report(tmp_path, values=values)
  assert reported["loss_stage_0"] == 2 and reported["loss_stage_1"] == 1
  assert "loss_stage_2" not in reported  # no segment, no loss


def test_a_loss_that_is_not_finite_is_null_in_json(tmp_path):
  report(tmp_path, values=[{"loss": float("nan")}])
  text = (tmp_path / "metrics.jsonl").read_text().splitlines()
  named, strict = (json.loads(x, parse_constant=pytest.fail) for x in text)
  assert strict["loss"] is None and named["spike"] is None


def test_lines_of_steps_that_are_taken_again_are_removed(tmp_path):
  write(tmp_path, *({"step": n, "loss": n} for n in range(1, 7)))
  report(tmp_path, start=4, values=[{"loss": 50.0}], step=5)
  assert [(x["step"], x["loss"]) for x in lines(tmp_path)] == [
    (1, 1), (2, 2), (3, 3), (4, 4), (5, 50),
  ]  # fmt: skip


def test_spikes_of_steps_that_are_taken_again_are_kept(tmp_path):
  spike = {"step": 6, "spike": 9.0, "rows": [40, 47], "samples": ["a", "b"]}
  write(tmp_path, {"step": 5}, {"step": 6}, spike, {"step": 7})
  values = [{"loss": x} for x in (1.0, math.nan)]  # step 6 stands out again
  of = lambda *names: Spikes(3.0, lambda n: range(8 * n, 8 * n + 8),
                             lambda n: names)  # fmt: skip
  report(tmp_path, start=4, values=values, step=6, spikes=of("a", "b"))
  assert [x for x in lines(tmp_path) if "spike" in x] == [spike]
  report(tmp_path, start=4, values=values, step=6, spikes=of("a", "c"))
  old, new = (x for x in lines(tmp_path) if "spike" in x)  # of other data
  assert old == spike and new["samples"] == ["a", "c"]
  report(tmp_path, start=0, values=values[:1], step=1)
  assert not [x for x in lines(tmp_path) if "spike" in x]


def test_the_speed_leaves_out_the_step_that_was_compiled(tmp_path):
  reporter = Reporter(tmp_path, 4, 10, "tokens")
  time.sleep(0.2)
  reporter.add({"loss": 3.0}, 100.0)
  reporter.restart(first_step_seconds=0.2)
  reporter.add({"loss": 1.0}, 50.0)
  time.sleep(0.01)
  values = reporter.report(6)
  assert (values["loss"], values["first_step_seconds"]) == (2, 0.2)
  assert 20 < values["steps_per_second"] <= 100
  np.testing.assert_allclose(
    values["tokens_per_second"], 50 * values["steps_per_second"]
  )
  reporter.add({"loss": 1.0}, 50.0)
  assert "first_step_seconds" not in reporter.report(7)
  reporter.add({"loss": 1.0}, 50.0)
  reporter.restart()
  assert "steps_per_second" not in reporter.report(8)
  reporter.close()


@pytest.mark.parametrize("half", ['{"step": 3, "lo', "{", "\0\0\0"])
def test_a_line_that_a_crash_cut_short_is_removed(tmp_path, half):
  write(tmp_path, {"step": 1}, {"step": 2}, end=half)
  report(tmp_path, start=2, values=[{"loss": 3.0}], step=3)
  assert [x["step"] for x in lines(tmp_path)] == [1, 2, 3]


def test_a_last_line_without_its_end_is_kept(tmp_path):
  write(tmp_path, {"step": 1}, end='{"step": 2}')
  report(tmp_path, start=2)
  assert [x["step"] for x in lines(tmp_path)] == [1, 2]


def test_a_fresh_run_in_an_old_folder_keeps_no_line(tmp_path):
  write(tmp_path, {"step": 1}, {"step": 2})
  report(tmp_path, start=0, values=[{"loss": 1.0}], step=1)
  assert len(lines(tmp_path)) == 1


def test_values_of_no_stretch_of_steps_are_lines_too(tmp_path, capsys):
  reporter = Reporter(tmp_path, 0, 10, "frames")
  reporter.write(10, {"psnr": np.float32(21.5)})
  reporter.close()
  assert lines(tmp_path) == [{"step": 10, "psnr": 21.5}]
  assert "step 10  psnr 21.5" in capsys.readouterr().out


def test_tensorboard_gets_a_file_of_its_own(tmp_path):
  report(tmp_path, values=[{"loss": 1.0}])
  (file,) = (tmp_path / "tensorboard").iterdir()
  assert b"loss" in file.read_bytes()


def test_a_metric_that_not_all_steps_have_is_the_mean_over_those(tmp_path):
  values = [{"loss": 1.0}, {"loss": 2.0, "adversarial": 5.0}, {"loss": 3.0}]
  reported = report(tmp_path, values=values, step=3)
  assert (reported["loss"], reported["adversarial"]) == (2, 5)


def test_a_picture_is_a_file_and_in_tensorboard(tmp_path):
  image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
  reporter = Reporter(tmp_path, 0, 10, "frames")
  reporter.picture(120, image)
  reporter.close()
  (path,) = (tmp_path / "pictures").iterdir()  # nothing half-written beside
  assert path.name == "step_000120.png"
  np.testing.assert_array_equal(PIL.Image.open(path), image)
  (file,) = (tmp_path / "tensorboard").iterdir()
  assert path.read_bytes() in file.read_bytes()


def test_only_the_first_process_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  reported = report(tmp_path / "run", values=[{"loss": 1.0}])
  assert reported["loss"] == 1
  assert not (tmp_path / "run").exists()
  reporter = Reporter(tmp_path / "run", 0, 10, "frames")
  reporter.picture(1, np.zeros((4, 5, 3), np.uint8))
  assert not (tmp_path / "run").exists()


def watch(folder, values, spike, kind=lambda n: None, every=10):
  """Reports steps of these (loss, gradient norm)s; the lines of spikes."""
  reporter = Reporter(
    folder, 0, len(values), "tokens", Spikes(
      spike,
      lambda n: range(4 * n, 4 * n + 4),
      lambda n: [f"clip {n}.{i}" for i in range(10)],
      kind,
    ),
  )  # fmt: skip
  for step, (loss, norm) in enumerate(values, 1):
    metrics = {"loss": np.float32(loss), "grad_norm": np.float32(norm)}
    reporter.add(metrics, 1.0)
    if step % every == 0:
      reporter.report(step)
  reporter.close()
  return [line for line in lines(folder) if "spike" in line]


def test_a_loss_far_above_its_median_names_its_rows_and_samples(
  tmp_path, capsys
):
  values = [(1 + 0.01 * (n % 5), 1.0) for n in range(40)]
  values[6] = (9.0, 1.0)  # too early to know what is usual
  values[33] = (3.1, 1.0)
  (line,) = watch(tmp_path, values, spike=3.0)
  assert line == {
    "step": 34,
    "spike": pytest.approx(3.1),
    "finite": True,
    "median": pytest.approx(1.02),
    "rows": [132, 135],
    "samples": [f"clip 33.{i}" for i in range(10)],
  }
  out = capsys.readouterr().out
  assert (
    "step 34: loss 3.1 is 3.0 times its median; rows 132 to 135: clip 33.0, "
    in out
  )
  assert "clip 33.7 and 2 more\n" in out


def test_what_is_not_finite_is_named_from_the_first_step_on(tmp_path):
  values = [(1.0, 1.0)] * 10
  values[0], values[4] = (np.nan, 1.0), (1.0, np.inf)
  found = watch(tmp_path, values, spike=0.0)
  assert [(x["step"], x["spike"], x["finite"]) for x in found] == [
    (1, None, False), (5, 1.0, False),
  ]  # fmt: skip


def test_without_a_factor_no_finite_loss_is_named(tmp_path):
  assert watch(tmp_path, [(1.0, 1.0)] * 30 + [(1e9, 1.0)] * 10, 0.0) == []


def look(values):
  """The spikes of steps with these metrics."""
  spikes = Spikes(3.0, lambda n: range(n, n + 1))
  found = (spikes.look(n, metrics) for n, metrics in enumerate(values))
  return [spike for spike in found if spike]


def test_of_a_vae_the_likelihood_is_compared():
  """A discriminator's part makes its loss negative."""
  values = [{"loss": -2 + 0.1 * (n % 5), "nll": 1.0} for n in range(40)]
  assert look(values) == []
  values[30] = {"loss": -1.0, "nll": 4.0}
  (spike,) = look(values)
  assert str(spike).startswith("step 31: nll 4 is 4.0 times its median; ")
  values[35] = {"loss": np.nan, "nll": 1.0}
  found = [(x.step, x.finite) for x in look(values)]
  assert found == [(31, True), (36, False)]


@pytest.mark.parametrize("usual", [0.0, -1.0])
def test_where_the_median_is_not_above_0_no_finite_loss_is_named(usual):
  values = [{"loss": usual}] * 30
  values[25] = {"loss": 100.0}
  assert [str(x) for x in look(values)] == []


def test_losses_are_compared_with_those_of_their_kind_alone(tmp_path):
  """Batches of images among those of clips, then longer clips."""
  level = {"images": 1.0, "clips": 9.0, "long": 50.0}
  kind = lambda n: "long" if n >= 60 else "images" if n % 3 else "clips"
  values = [(level[kind(n)], 1.0) for n in range(110)]
  assert watch(tmp_path, values, 3.0, kind) == []
  values[58] = (level["clips"], 1.0)  # of images
  values[100] = (4 * level["long"], 1.0)
  found = watch(tmp_path, values, 3.0, kind)
  assert [(x["step"], x["median"]) for x in found] == [(59, 1.0), (101, 50.0)]
