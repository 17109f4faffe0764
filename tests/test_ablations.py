"""What is run and kept of the ablations, and what is published of it."""

import collections
import concurrent.futures
import json
import math
import pathlib
import runpy
import shutil
import sys

import numpy as np
import pytest

from tests import ablation_scripts
from tests.ablation_scripts import ROOT, SCRIPTS

FLOPS = 0.1  # by which a step of a variant may differ from that of the first


@pytest.fixture(scope="module")
def scripts():
  """The benchmark's modules, by name."""
  return ablation_scripts.load()


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
    shown = {*study.columns, *study.compared}
    assert shown <= set(studies.MEASURES)
    assert set(study.against) <= set(study.variants[1:])
    assert not set(study.claimed) & set(study.also)
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
    window = {"kept": rate, "still": {"hits": 0, "n": 0}, "color change": 1.0,
              "color change n": 1}  # fmt: skip
    found = {"attributes": {"shape": rate}, "all correct": rate}
    found["windows"] = [window]
    found |= {"flicker": 0.0, "color drift": 0.0, "shape drift": None}
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
  (seen,) = long["windows"]
  assert long["attributes"] == seen["kept"] == 0.5
  assert math.isnan(seen["still"]) and math.isnan(long["shape drift"])
  assert seen["color change n"] == 1
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


def test_another_default_is_another_case(scripts, tmp_path, monkeypatch):
  cases = scripts["cases"]
  case = cases.Case("pyramid", 0, scripts["variants"].FULL, tmp_path, tmp_path)
  before, usual = case.settings, cases.usual_settings()
  changed = tmp_path / "config.py"
  changed.write_text(
    cases.CONFIG.read_text()
    + """
def changed(kind, here=get_config):
  config = here(kind)
  config.optimizer.beta1 = 0.8
  return config

get_config = changed
"""
  )
  monkeypatch.setattr(cases, "CONFIG", changed)
  other = {**usual, "optimizer.beta1": 0.8}
  monkeypatch.setattr(cases, "usual_settings", lambda: other)
  assert "optimizer.beta1" not in cases.base_settings()
  assert case.settings != before


def test_what_there_is_none_of_is_kept_as_json_that_any_reader_takes(
  scripts, tmp_path
):
  results, path = scripts["results"], tmp_path / "kept.json"
  path.write_text('{"before": {"rate": NaN}}')  # as an earlier version wrote it
  record = {"rates": [0.5, math.nan], "far": math.inf, "steps": 3}
  results.add(path, "case", record)
  kept = json.loads(path.read_text(), parse_constant=pytest.fail)
  nothing = {"rates": [0.5, None], "far": None, "steps": 3}
  assert kept == {"before": {"rate": None}, "case": nothing}
  found = results.load(path)["case"]
  assert found["rates"][0] == 0.5 and found["steps"] == 3
  assert math.isnan(found["rates"][1]) and math.isnan(found["far"])


@pytest.mark.parametrize(
  "flags, kept",
  [
    ((), "ablations/ablations.json"),
    (("--tiny",), "ablations/ablations_tiny.json"),
    (("--work={}/elsewhere",), "elsewhere/ablations.json"),
    (("--tiny", "--kept={}/docs/mine.json"), "docs/mine.json"),
  ],
)
def test_results_are_kept_in_their_folder_unless_another_is_named(
  tmp_path, monkeypatch, flags, kept
):
  main, written = runpy.run_path(str(SCRIPTS / "__main__.py"))["main"], []
  parts = collections.Counter()
  for name in ("check_folder", "check_kept", "run_missing", "show_blocks"):
    said = lambda *_, name=name: parts.update([name])
    monkeypatch.setitem(main.__globals__, name, said)
  monkeypatch.setitem(
    main.__globals__, "write_document", lambda *_: written.append(_[-1])
  )
  given = [flag.format(tmp_path) for flag in flags]
  monkeypatch.setattr(sys, "argv", ["", f"--folder={tmp_path}", *given])
  assert main() == 0
  assert written == [(tmp_path / kept).with_suffix(".md")]
  assert parts["check_kept"] == 1
  monkeypatch.setattr(sys, "argv", [*sys.argv, "--replace"])
  assert main() == 0 and parts["check_kept"] == 1 and parts["run_missing"] == 2


def test_what_was_measured_otherwise_is_not_replaced(scripts, tmp_path):
  check = runpy.run_path(str(SCRIPTS / "__main__.py"))["check_kept"]
  case = scripts["cases"].Case(
    "pyramid", 0, scripts["variants"].FULL, tmp_path, tmp_path
  )
  kept = tmp_path / "kept.json"
  check([case], kept)  # nothing is there
  keep = lambda settings: kept.write_text(
    json.dumps({case.key: {"settings": settings}})
  )
  keep(case.settings)
  check([case], kept)
  others = scripts["cases"].apart_from_latents(case.settings)
  keep([*others, "latents=theirs"])
  with pytest.raises(SystemExit, match="'pyramid, seed 0', .*theirs, not miss"):
    check([case], kept)
  keep(["--config.seed=7", *case.settings])
  with pytest.raises(SystemExit, match="other settings; .*--kept.*--replace"):
    check([case], kept)


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
  kept = scripts["results"].load(ROOT / "docs" / "ablations.json")
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
  assert kept.keys() == {c.key for c in cases} | notes
  used = {x for of in found.values() for r in of for x in marks_of(scripts, r)}
  assert {name.split()[1] for name in notes} <= used
  studies = scripts["studies"].STUDIES
  assert all(kept[x].get("studies", {}).keys() <= studies.keys() for x in notes)


def test_what_is_published_is_json_that_any_reader_takes():
  text = (ROOT / "docs" / "ablations.json").read_text()
  json.loads(text, parse_constant=pytest.fail)


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
        if f"{variant}, seed {seed}" in kept
      )
      shares = np.array(others) / first
      np.testing.assert_allclose(shares, 1, atol=FLOPS, err_msg=study.title)
