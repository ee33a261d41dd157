"""U-Net background removal: the thin helper library of the course in `notebooks/`.

Importing it loads only the standard library. Take what you need from its modules, for example
`from unetlib.data.sources import open_source` or `from unetlib.predict import Predictor`.
"""

__version__ = "0.1.0"
