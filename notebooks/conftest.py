"""pytest runs the notebooks in a folder of their own: a student's data/ and outputs/ stay."""

import atexit
import os
import shutil
import tempfile

os.environ["UNETLIB_ROOT"] = tempfile.mkdtemp(prefix="unetlib-tests-")
atexit.register(shutil.rmtree, os.environ["UNETLIB_ROOT"], ignore_errors=True)
