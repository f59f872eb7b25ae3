"""The images that worklets are made of, beside the usual one."""

from __future__ import annotations

from config.slices.base import Names, Slice, setting


class ImageSettings(Slice):
    bases: Names = setting(
        "FLOW_BASE_IMAGES",
        (),
        "Base images that a container.yaml or a template may name, e.g. node:22-*,registry.example.org/team/*.",
    )
    keep: int = setting(
        "FLOW_IMAGES_KEPT", 3, "Images on such bases that stay though no worklet is made of them.", ge=0
    )
