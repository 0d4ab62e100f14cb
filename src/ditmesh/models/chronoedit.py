"""ChronoEdit: the blocks of Wan, with the positions of a video that holds a picture and its edit."""

from dataclasses import replace

from ditmesh.models.wan import SPEC as WAN

SPEC = replace(WAN, transformer="ChronoEditTransformer3DModel", title="ChronoEdit")
