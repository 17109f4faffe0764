"""Listings are stable, captions found, and mistakes named by file and line."""

import json
import re

import pytest

from pyramid_jax.config import ConfigError
from pyramid_jax.data.files import find_files, write_skipped


def touch(path, text=""):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


def test_a_folder_is_listed_sorted_with_captions(tmp_path):
  for name in ("b/a-red_fox.MP4", "a.png", "c.webm", ".hidden.mp4", "notes.md"):
    touch(tmp_path / name)
  touch(tmp_path / "c.txt", "a dog  runs\n\nan animal \n")
  items, left_out = find_files(tmp_path)
  assert [(i.id, i.captions, i.kind) for i in items] == [
    ("a.png", ("a",), "image"),
    ("b/a-red_fox.MP4", ("a red fox",), "video"),
    ("c.webm", ("a dog runs", "an animal"), "video"),
  ]
  assert all(i.path.is_file() for i in items)
  assert find_files(tmp_path / "c.webm") == ([items[2]], [])
  assert not left_out


def test_a_manifest_is_relative_to_itself(tmp_path):
  lines = [
    {"video": "x/a.mp4", "text": "one"},
    {"image": "b.jpg", "text": ["two", "2"]},
    {"video": "x/a.mp4", "text": "three", "sha256": "ab"},
  ]
  path = tmp_path / "list.jsonl"
  path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
  items, left_out = find_files(path)
  assert not left_out
  assert [i.id for i in items] == ["x/a.mp4", "b.jpg", "x/a.mp4#3"]
  assert [i.captions for i in items] == [("one",), ("two", "2"), ("three",)]
  assert items[0].path == tmp_path / "x/a.mp4"
  assert [i.sha256 for i in items] == ["", "", "ab"]
  assert [i.kind for i in items] == ["video", "image", "video"]


@pytest.mark.parametrize(
  "line, message",
  [
    ("{video: 3}", "list.jsonl:2: not JSON"),
    ('["a.mp4", "x"]', "list.jsonl:2: needs"),
    ('{"video": "a.mp4"}', "list.jsonl:2: needs"),
    ('{"text": "x"}', "list.jsonl:2: needs"),
    (
      '{"video": "a.mp4", "image": "a.png", "text": "x"}',
      "list.jsonl:2: needs",
    ),
    ('{"video": 3, "text": "x"}', "list.jsonl:2: path, text and"),
    ('{"video": "a.mp4", "text": null}', "list.jsonl:2: path, text and"),
    ('{"video": "a.mp4", "text": []}', "list.jsonl:2: path, text and"),
    ('{"video": "a.mp4", "text": ["x", 3]}', "list.jsonl:2: path, text and"),
    ('{"video": "a.mp4", "text": "\\ud800"}', "list.jsonl:2: a character that"),
    ('{"video": "a\\u0000.mp4", "text": "x"}', "list.jsonl:2: a character"),
    (b'{"video": "a.mp4", "text": "\xe9"}', "list.jsonl:2: no UTF-8 .byte 28"),
  ],
)
def test_a_bad_line_is_left_out_and_named(tmp_path, line, message):
  path = tmp_path / "list.jsonl"
  good = b'{"video": "%d.mp4", "text": "fine"}\n'
  line = line if isinstance(line, bytes) else line.encode()
  path.write_bytes(good % 1 + line + b"\n" + good % 3)
  items, left_out = find_files(path)
  assert [item.id for item in items] == ["1.mp4", "3.mp4"]
  ((where, reason),) = left_out
  assert re.match(message, f"{where}: {reason}")
  path.write_bytes(line)
  with pytest.raises(ConfigError, match="names 1 inputs of which none can be"):
    find_files(path)


def test_nothing_to_read_is_an_error(tmp_path):
  with pytest.raises(ConfigError, match="does not exist"):
    find_files(tmp_path / "absent")
  (tmp_path / "notes.md").write_text("x")
  with pytest.raises(ConfigError, match="has no videos or images"):
    find_files(tmp_path)
  (tmp_path / "list.jsonl").write_text("\n")
  with pytest.raises(ConfigError, match="lists no files"):
    find_files(tmp_path / "list.jsonl")
  (tmp_path / "list.bin").write_bytes(b"\xff\xfe\x00")
  with pytest.raises(ConfigError, match="none can be used.*no UTF-8"):
    find_files(tmp_path / "list.bin")


def test_skipped_files_are_written_with_their_reasons(tmp_path):
  path = tmp_path / "skipped.jsonl"
  for skipped in ([("a.mp4", "old")], [("b.mp4", "short"), ("c.png", "torn")]):
    write_skipped(path, skipped)
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert lines == [
    {"path": "b.mp4", "reason": "short"},
    {"path": "c.png", "reason": "torn"},
  ]
  assert [f.name for f in tmp_path.iterdir()] == ["skipped.jsonl"]
