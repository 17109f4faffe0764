"""A dataset, VAE, latents and transformer, made by the commands themselves."""

import dataclasses
import pathlib

from tests import commands, tiny


@dataclasses.dataclass(frozen=True)
class Workdirs:
  """What the commands wrote, one after the other, and what they said."""

  folder: pathlib.Path
  results: dict[str, commands.Result]

  @property
  def shapes(self) -> pathlib.Path:
    return self.folder / "shapes"

  @property
  def text(self) -> pathlib.Path:
    return self.folder / "text"

  @property
  def vae(self) -> pathlib.Path:
    return self.folder / "vae"

  @property
  def latents(self) -> pathlib.Path:
    return self.folder / "latents"

  @property
  def dit(self) -> pathlib.Path:
    return self.folder / "dit"


def steps(folder: pathlib.Path) -> dict[str, tuple[str, ...]]:
  """The commands of the whole path and their arguments."""
  config = f"config={tiny.__file__}"
  text = f"config.text.path={folder}/text"
  return {
    "shapes": (
      "shapes", f"out={folder}/shapes", f"text={folder}/text", "clips=12",
      "heldout=4", "size=32", "frames=9",
    ),
    "vae": (
      "train", f"{config}:vae", f"workdir={folder}/vae", f"data={folder}/shapes"
    ),
    "latents": (
      "encode", config, text, f"videos={folder}/shapes", f"vae={folder}/vae",
      f"out={folder}/latents",
    ),
    "dit": (
      "train", config, text, f"workdir={folder}/dit", f"data={folder}/latents"
    ),
  }  # fmt: skip


def make(folder: pathlib.Path) -> Workdirs:
  """Runs them all."""
  results = {}
  for name, arguments in steps(folder).items():
    results[name] = commands.run(*arguments)
    assert results[name].code == 0, f"{name}:\n{results[name].err}"
  return Workdirs(folder, results)
