"""Widgets, charts, icons and colours that the pages share."""
