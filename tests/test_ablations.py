"""What decides the ablations: measures on known latents, and the rule."""

import concurrent.futures
import importlib
import json
import pathlib
import runpy
import shutil
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = ROOT / "benchmarks" / "ablations"
FLOPS = 0.1  # by which a step of a variant may differ from that of the first


@pytest.fixture(scope="module")
def scripts():
  """The benchmark's modules, by name."""
  sys.path.insert(0, str(SCRIPTS))
  try:
    yield {
      name: importlib.import_module(name)
      for name in (
        "cases",
        "document",
        "measure",
        "pictures",
        "results",
        "rule",
        "studies",
        "variants",
      )
    }
  finally:
    sys.path.pop(0)


def test_values_that_blocks_share_are_told_from_smooth_ones(scripts):
  neighbours = scripts["measure"].neighbours
  rng = np.random.default_rng(0)
  coarse = rng.standard_normal((64, 2, 4, 4, 3))
  blocks = coarse.repeat(2, 2).repeat(2, 3)
  assert neighbours(blocks)["inside"] == pytest.approx(1, abs=1e-12)
  error = 5 / np.sqrt(2 * 64 * 2 * 12 * 3)  # 5 standard errors of what differs
  np.testing.assert_allclose(neighbours(blocks)["across"], 0, atol=error)
  # the mean of every 2 x 2: neighbours share half, wherever they lie
  x = rng.standard_normal((256, 2, 9, 9, 3))
  smooth = x[:, :, 1:, 1:] + x[:, :, 1:, :-1] + x[:, :, :-1, 1:]
  found = neighbours(smooth + x[:, :, :-1, :-1])
  np.testing.assert_allclose([*found.values()], 0.5, atol=0.02)


def test_straight_paths_have_no_spread_and_bent_ones_that_of_their_law(scripts):
  straightness = scripts["measure"].straightness
  steps = scripts["measure"].REFERENCE
  ends = [(np.zeros((2, 1, 2, 2, 4)),)]  # one unit of one stage, 4 tokens
  v = np.random.default_rng(0).standard_normal((2, 4, 4))
  history = np.full((2, 3, 4), np.nan)  # stands before the target
  whole = lambda v: np.concatenate([history, v], 1)
  assert straightness(ends, [whole(v)] * steps, 1) == pytest.approx([0.0])
  shares = scripts["measure"].step_shares(steps)
  np.testing.assert_allclose(shares.sum(), 1, atol=1e-12)
  signs = np.where(np.arange(steps) % 2, 3.0, -1.0)  # v, and three times back
  mean = shares @ signs
  expected = shares @ (signs - mean) ** 2 / mean**2
  found = straightness(ends, [whole(s * v) for s in signs], 1)
  np.testing.assert_allclose(found, [expected], rtol=1e-12)


@pytest.mark.parametrize(
  "ours, others, smaller, verdict",
  [
    ([1, 2, 3], [4, 5, 6], True, "shown"),
    ([1, 2, 3], [4, 5, 6], False, "the opposite is shown"),
    ([1, 2, 4], [4, 5, 6], True, "not decided"),
    ([1, 2], [4, 5, 6], True, "not measured"),
  ],
)
def test_a_claim_is_shown_if_no_two_seeds_contradict_it(
  scripts, ours, others, smaller, verdict
):
  measure = scripts["studies"].Measure(lambda r: r, smaller=smaller)
  assert scripts["rule"].verdict(measure, ours, others, 3) == verdict


def test_seeds_are_compared_one_by_one_where_both_have_them(scripts):
  rule = scripts["rule"]
  pairs = lambda *values, smaller=True: rule.pairs(
    scripts["studies"].Measure(lambda r: r, smaller=smaller),
    *(dict(enumerate(x)) for x in values),
  )
  assert pairs([1, 5, 2], [2, 4, 3]) == "; better in 2 of 3 seeds"
  assert pairs([1, 5], [2, 4], smaller=False) == "; better in 1 of 2 seeds"
  assert pairs([1, 1], [1, 2]) == "; better in 1 of 2 seeds"  # not by a tie
  assert pairs([1], [2, 4]) == "; better in 1 of 1 seeds"
  assert pairs([], []) == pairs([1], []) == ""
  less = scripts["studies"].Measure(lambda r: r)
  found = rule.pairs(less, {0: 1, 2: 5}, {1: 0, 2: 6})  # not 1 with 0
  assert found == "; better in 1 of 1 seeds"


@pytest.mark.parametrize(
  "verdicts, outcome",
  [
    ({"A": ["shown", "not decided"]}, "reproduced"),
    ({"A": ["not decided", "the opposite is shown"]}, "not reproduced"),
    (
      {"A": ["shown", "the opposite is shown"]},
      "not decided: measures disagree",
    ),
    ({"A": ["not decided"]}, "not decided"),
    ({"A": ["shown"], "B": ["not decided"]}, "not decided"),  # not against all
    ({"A": ["shown"], "B": ["not measured"]}, "not measured"),
  ],
)
def test_a_study_is_reproduced_if_some_measure_shows_it_and_none_the_opposite(
  scripts, verdicts, outcome
):
  rule = scripts["rule"]
  line = lambda measure, other, verdict: rule.Compared(
    measure, other, verdict, "", "", ""
  )
  lines = [line("x", k, verdict) for k, v in verdicts.items() for verdict in v]
  assert rule.outcome(lines) == outcome
  for word in ("shown", "not decided", "the opposite is shown"):
    distance = line("Frechet distance", "A", word)
    assert rule.outcome([*lines, distance]) == outcome  # it has no part


def test_at_equal_compute_scores_are_on_the_line_between_two_steps(scripts):
  rule = scripts["rule"]
  record = lambda flops, *scores: {
    "seed": 0,
    "over compute": {
      step: {"frechet": score, "work": {"flops": flops}}
      for step, score in zip(("100", "200"), scores, strict=True)
    },
  }
  found = {"a": [record(1e10, 4.0, 2.0)], "b": [record(2e10, 3.0, 1.0)]}
  assert rule.teraflops(found, "a") == [1.0, 2.0]
  middle = rule.at_teraflop(found, ("a", "b"), 1.5)
  values = lambda v: rule.values(middle, v, "Frechet distance")
  assert values("a") == {0: 3.0}
  end = rule.at_teraflop(found, ("a", "b"), 2.0)
  each = [rule.values(end, v, "Frechet distance")[0] for v in "ab"]
  assert each == [2.0, 3.0]  # b's first step costs as much as a's second
  first = rule.at_step(found, "100")
  assert rule.values(first, "b", "Frechet distance") == {0: 3.0}


def test_long_clips_are_followed_from_those_right_at_first(scripts):
  measures = scripts["studies"].MEASURES
  window = lambda n, kept, still_n, still: {
    "n": n, "kept": kept, "still n": still_n, "still": still,
  }  # fmt: skip
  windows = [
    window(32, 0.25, 8, 1.0),
    window(20, 0.2, 6, 0.5),
    window(10, 0.1, 2, 0.0),
    window(4, 0.0, 0, float("nan")),
  ]
  record = {"long": {"windows": windows}}
  assert measures["still later"].of(record) == pytest.approx(3 / 8)
  assert measures["of right ones"].of(record) == 8
  assert measures["kept later"].of(record) == pytest.approx(5 / 34)
  assert measures["quarters later"].of(record) == 34


def test_commands_at_once_lose_no_result_and_do_nothing_twice(
  scripts, tmp_path
):
  results, path = scripts["results"], tmp_path / "kept" / "results.json"
  assert results.load(path) == {}
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for i in range(40):
      pool.submit(results.add, path, f"case {i}", {"n": i})
  assert results.load(path) == {f"case {i}": {"n": i} for i in range(40)}
  case = tmp_path / "case"
  with results.locked(case) as ours, results.locked(case, False) as theirs:
    assert ours and not theirs
  with results.locked(case, wait=False) as again:
    assert again


def test_every_study_compares_variants_that_are_run(scripts):
  cases, studies = scripts["cases"], scripts["studies"]
  variants = scripts["variants"]
  of_paths = [x for x in studies.MEASURES if x.startswith(("str", "error"))]
  used = {v for s in studies.STUDIES.values() for v in s.variants}
  assert used == set(variants.VARIANTS)
  for study in studies.STUDIES.values():
    assert set(study.columns) | set(study.decided_by) <= set(studies.MEASURES)
    for name in study.columns:
      needs = {"long": name in studies.LONG, "paths": name in of_paths}
      for part in (part for part, needed in needs.items() if needed):
        for variant in study.variants:
          assert getattr(variants.VARIANTS[variant], part), (variant, part)
  for name, variant in variants.VARIANTS.items():
    if variant.sampled_as:  # weights of the task's first
      case = cases.Case(name, 0, variants.FULL, SCRIPTS, SCRIPTS)
      tasks = [v.task for v in variants.VARIANTS.values()]
      first = [*variants.VARIANTS][tasks.index(variant.task)]
      assert case.trained.name == first
    shared = variants.TASKS[variant.task].settings
    ours = {**shared, **variant.settings}
    assert work(cases, ours) == work(cases, shared)


def work(cases, changes):
  """Sampling steps a unit and tokens a row, of changes of the config."""
  config = runpy.run_path(str(cases.CONFIG))["get_config"]()
  config.update_from_flattened_dict(changes)
  tokens = config.latents.latent_tokens + config.latents.text_tokens
  return sum(config.generate.steps), tokens


def test_variants_about_later_frames_share_a_training_on_images(
  scripts, tmp_path, monkeypatch
):
  cases, ran = scripts["cases"], []
  monkeypatch.setattr(cases, "command", lambda *words: ran.append(words))
  monkeypatch.setattr(cases.Case, "scores", lambda *_: {"flicker": 0})
  monkeypatch.setattr(cases.Case, "measure", lambda *_: {"frechet": 0})

  def run(name, seed=0):
    case = cases.Case(name, seed, scripts["variants"].FULL, tmp_path, tmp_path)
    ran.clear()
    return case, case.run(), [parts(words) for words in ran]

  def parts(words):
    return dict(x.split("=", 1) for x in words if "=" in x)

  first, record, (images, *clips) = run("autoregressive")
  assert images["--data"] == str(tmp_path / "image_latents")
  assert "--config.train.init" not in images
  for words, step in zip(clips, ("400", "800"), strict=True):
    assert words["--data"] == str(tmp_path / "latents")
    assert words["--config.train.init"] == images["--workdir"]
    assert words["--config.train.steps"] == step
    assert step in record["over compute"] and "long" in record
  other, _, (again, after) = run("clean history")
  assert again == images and after["--workdir"] != clips[0]["--workdir"]
  assert after["--config.train.init"] == images["--workdir"]
  assert run("autoregressive", 1)[2][0]["--workdir"] != images["--workdir"]
  assert set(first.start.settings) < set(first.settings)
  assert all(
    "init" not in flag for words in run("pyramid")[2] for flag in words
  )


def test_a_clip_is_scored_as_long_as_its_task_makes_it_or_as_long_as_asked(
  scripts, tmp_path, monkeypatch
):
  cases, ran = scripts["cases"], []

  def command(*words):
    ran.append(words)
    (out,) = (w.split("=", 1)[1] for w in words if w.startswith("--out="))
    rate = {"hits": 1, "n": 2}
    window = {"kept": rate, "still": {"hits": 0, "n": 0}, "color change": 1.0}
    found = {"attributes": {"shape": rate}, "all correct": rate}
    found["windows"] = [window]
    found |= dict.fromkeys(("flicker", "color drift", "shape drift"), 0.0)
    path = pathlib.Path(out) / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"summary": found}))

  monkeypatch.setattr(cases, "command", command)
  case = cases.Case(
    "1 stage, images", 0, scripts["variants"].FULL, tmp_path, tmp_path
  )
  assert case.latents == tmp_path / "image_latents"
  made = cases.flags(case.variant, 0, tmp_path)
  assert "--config.generate.frames=1" in made
  assert f"--config.videos.path={tmp_path / 'images'}" in made
  assert case.scores("step_400", 128)["all correct"] == 0.5
  long = case.scores("long", 32, 65)
  assert long["attributes"] == long["windows"][0]["kept"] == 0.5
  assert np.isnan(long["windows"][0]["still"])
  frames = [[w for w in words if "--frames" in w] for words in ran]
  assert frames == [[], ["--frames=65"]]


def test_another_setting_is_another_case(scripts, tmp_path):
  cases = scripts["cases"]
  case = cases.Case("pyramid", 0, scripts["variants"].FULL, tmp_path, tmp_path)
  kept = {case.key: {"settings": case.settings}}
  assert case.done(kept)
  small = cases.Case("pyramid", 0, scripts["variants"].TINY, tmp_path, tmp_path)
  assert not small.done(kept) and small.folder != case.folder
  heldout = case.heldout
  assert small.heldout != heldout
  (tmp_path / "latents").mkdir()
  store = {"fingerprint": "a" * 64}
  (tmp_path / "latents" / "metadata.json").write_text(json.dumps(store))
  assert not case.done(kept) and "latents=aaaaaaaaaaaa" in case.settings
  assert case.heldout != heldout  # true clips as another VAE sees them


def test_another_config_file_is_another_case(scripts, tmp_path, monkeypatch):
  cases = scripts["cases"]
  case = cases.Case("pyramid", 0, scripts["variants"].FULL, tmp_path, tmp_path)
  text, before = cases.CONFIG.read_text(), case.settings
  changed = tmp_path / "config.py"
  monkeypatch.setattr(cases, "CONFIG", changed)
  for old, new, same in (
    ("learning_rate=1e-2", "learning_rate=2e-2", False),
    ("guidance=3.0,\n      video", "guidance=2.0,\n      video", False),
    ("latent_tokens=96", "latent_tokens=128", True),  # the cases have their own
    ("steps=3600", "steps=3700", True),
  ):
    assert old in text
    changed.write_text(text.replace(old, new))
    assert (case.settings == before) == same, new


def test_a_step_that_was_missed_is_not_measured_later(
  scripts, tmp_path, monkeypatch
):
  cases = scripts["cases"]
  monkeypatch.setattr(cases, "command", lambda *_: pytest.fail("trained"))
  monkeypatch.setattr(cases.checkpoint, "latest_step", lambda _: 300)
  case = cases.Case("pyramid", 0, scripts["variants"].FULL, tmp_path, tmp_path)
  with pytest.raises(SystemExit, match="at step 300, and step 150 was not"):
    case.run()


def test_weights_are_shared_once_their_own_case_is_measured(
  scripts, tmp_path, monkeypatch
):
  cases, ran = scripts["cases"], []
  main = runpy.run_path(str(SCRIPTS / "__main__.py"))
  monkeypatch.setattr(
    cases.Case, "run",
    lambda self: ran.append(self.key) or {"settings": self.settings},
  )  # fmt: skip
  base, other = (
    cases.Case(name, 0, scripts["variants"].FULL, tmp_path, tmp_path)
    for name in ("pyramid", "no corrective noise")
  )
  kept = tmp_path / "kept.json"
  main["run_missing"]([other], kept, 9)
  assert not ran
  main["run_missing"]([base, other], kept, 9)
  assert ran == [base.key, other.key]


@pytest.fixture(scope="module")
def published(scripts, tmp_path_factory):
  """What is kept in docs, and its cases beside latents of the same marks."""
  kept = json.loads((ROOT / "docs" / "ablations.json").read_text())
  folder = tmp_path_factory.mktemp("published")
  full = scripts["variants"].FULL
  made = scripts["cases"].Case
  return kept, [
    made(name, seed, full, folder, folder)
    for seed in full.seeds
    for name in scripts["variants"].VARIANTS
  ]


def test_what_is_published_was_measured_with_the_settings_of_today(
  scripts, published
):
  kept, cases = published
  found = scripts["cases"].measured_alike(cases, kept)
  for name, records in found.items():  # each task on one VAE's latents
    assert [r["seed"] for r in records] == [0, 1, 2], name
  notes = {name for name in kept if name.startswith("latents ")}
  assert kept.keys() == {case.key for case in cases} | notes
  used = {x for of in found.values() for r in of for x in marks_of(scripts, r)}
  assert {name.split()[1] for name in notes} <= used


def marks_of(scripts, record):
  return scripts["cases"].marks(record["settings"])


def test_what_is_compared_was_learned_from_the_same_latents(scripts, tmp_path):
  make = scripts["cases"].Case
  full = scripts["variants"].FULL
  names = ("pyramid", "1 stage", "pyramid, images", "1 stage, images")
  cases = [make(name, 0, full, tmp_path, tmp_path) for name in names]
  kept = {}
  for case, mark in zip(cases, ("a", "a", "b", "c"), strict=True):
    others = scripts["cases"].apart_from_latents(case.settings)
    kept[case.key] = {"settings": [*others, f"latents={mark}"]}
  found = scripts["cases"].measured_alike(cases, kept)
  counted = [name for name, records in found.items() if records]
  assert counted == ["pyramid", "1 stage", "pyramid, images"]
  kept["pyramid, seed 0"]["settings"][0] = "--config.model.patch=2"
  found = scripts["cases"].measured_alike(cases, kept)
  assert not found["pyramid"] and found["1 stage"]


def test_a_page_says_which_tasks_a_vae_is_of(scripts):
  of_tasks = runpy.run_path(str(SCRIPTS / "__main__.py"))["of_tasks"]
  x, y = {"VAE": "x"}, {"VAE": "y"}
  assert of_tasks({}, "VAE", "3 steps") == "3 steps"
  assert of_tasks({"clips": x, "motion": x}, "VAE", "") == "x"
  said = of_tasks({"clips": x, "stills": y, "motion": x}, "VAE", "")
  assert said == "of clips, motion: x; of stills: y"
  said = of_tasks({"clips": x, "stills": {}}, "VAE", "3 steps")
  assert said == "of clips: x; of stills: 3 steps"


def test_the_published_page_is_the_one_that_is_made_of_what_is_kept(
  published, tmp_path
):
  kept, cases = published
  docs, page = ROOT / "docs", tmp_path / "ablations.md"
  shutil.copy(docs / "ablations_blocks.png", tmp_path)
  runpy.run_path(str(SCRIPTS / "__main__.py"))["write_document"](
    cases, kept, page
  )
  assert page.read_text() == (docs / "ablations.md").read_text()


def test_steps_that_are_compared_cost_nearly_as_much(scripts, published):
  kept, _ = published
  end = scripts["studies"].at_end("work")
  for study in scripts["studies"].STUDIES.values():
    for seed in scripts["variants"].FULL.seeds:
      first, *others = (
        end(kept[f"{variant}, seed {seed}"])["flops"]
        for variant in study.variants
      )
      shares = np.array(others) / first
      np.testing.assert_allclose(shares, 1, atol=FLOPS, err_msg=study.title)
