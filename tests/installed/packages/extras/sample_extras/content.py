"""Needs what is installed wherever Helios is."""

import helios


class Content(helios.Plugin):
    def __init__(self):
        super().__init__("content")

    def setup(self):
        print("called content.setup")
