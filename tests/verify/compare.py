"""Reference files through the comparison that `pyramid-verify` makes."""

from pyramid_jax.verify.report import Report
from pyramid_jax.verify.run import verify
from tests import reference


def check(name: str, share: float):
  """All of a file must be within a share of the limits that are promised.

  The promised limits leave room for other machines; a tenth of them here shows
  a mistake that they would hide.
  """
  report = Report(reference.load(name))
  verify(report.file, report)
  print(report.summary())
  assert report.lines and not report.left, report.left
  beyond = [x for x in report.lines if not x.relative <= x.limit * share]
  assert not beyond, "\n".join(map(str, beyond))
