"""A procedural dataset with exact soft mattes: what the course runs on when there are no photos.

generate_sample(seed, index)     one picture, see `scene`
write_synthetic(root)            a dataset of ordinary image and mask files, see `files`
"""

from unetlib.data.synthetic.files import write_synthetic
from unetlib.data.synthetic.scene import GENERATOR_VERSION, TAGS, Sample, generate_sample

__all__ = ["GENERATOR_VERSION", "TAGS", "Sample", "generate_sample", "write_synthetic"]
