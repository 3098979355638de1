"""Imports torchrec, these tests' oracle, once and quietly: fbgemm's CPU build warns of operators it lacks."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchrec  # noqa: F401
