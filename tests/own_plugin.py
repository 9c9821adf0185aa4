"""The plug-in of `own_data`: importing it registers its tasks and domain."""

from own_data import register

register()
