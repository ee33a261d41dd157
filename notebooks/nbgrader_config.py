"""For instructors: settings of nbgrader, which makes the student version of the notebooks.

Put this file into a course folder, and the six notebooks into `source/unet/` beside it. There

    nbgrader generate_assignment unet --create

writes `release/unet/`: the same notebooks without outputs. What students hand in
belongs into `submitted/NAME/unet/`, and `nbgrader autograde unet` counts the points.
"""

import os
from pathlib import Path

c = get_config()  # noqa: F821  (nbgrader defines it)

# The course folder is where this file is, also when nbgrader is started elsewhere.
course = Path(__file__).resolve().parent
c.CourseDirectory.root = str(course)

# Grading runs the notebooks, and they write data/ and outputs/: here, and not into a checkout's.
# The submissions share this folder, so the photos are drawn only once.
os.environ.setdefault("UNETLIB_ROOT", str(course / "run"))

# Seconds for one cell. nbgrader's own 30 would end the training in 03.
c.Execute.timeout = 3600
# Seconds to wait for a kernel, and for the output of a cell on a busy machine.
c.Execute.startup_timeout = 300
c.Execute.iopub_timeout = 60
