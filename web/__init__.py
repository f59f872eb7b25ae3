"""The HTTP door. Today: health."""
