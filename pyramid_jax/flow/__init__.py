"""The mathematics of pyramidal flow matching (arXiv:2410.05954).

It imports nothing of the project: the model is a callable, a batch a dict.

  Eq. 5-8, 25    stages in time, their sigmas         schedule.make_schedule
  Down, Up       levels of the pyramid                resample.pyramid, up
  Eq. 9-11, 16   training inputs and loss             objective
  Eq. 12-15, 27  the jump between stages              renoise.stage_jump
  Eq. 17         what is seen of the past             history.clips
  Algorithm 1    a unit, stage by stage               sampler.sample_unit_loop,
                 the same as one compiled scan        sampler.sample_unit
  Sec. 3.3       a video, unit by unit                sampler.generate_units

The paper's t is 1 - sigma, its k counts stages from the finest (ours from the
coarsest), its gamma is the negative of ours.
"""
