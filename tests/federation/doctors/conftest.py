"""Folders for doctors to look at; what they import stands on names that click 8.2 deprecates, no fault of ours."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer  # noqa: F401
    from federation.doctors.spoilt_folders import ash, central, hub  # noqa: F401
