"""Flower's command line stands on names that click 8.2 deprecates; importing it is no fault of ours."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer  # noqa: F401
    from flower_house import house  # noqa: F401
