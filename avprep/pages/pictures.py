"""Pictures in a page: they are embedded as data URLs, as long as there is room."""

from __future__ import annotations

import base64
from dataclasses import dataclass


@dataclass
class Pictures:
    """Embeds pictures in a page while there is room for them (bytes, before base64)."""

    room: int
    left_out: int = 0

    def url(self, data: bytes, kind: str = "jpeg") -> str | None:
        """Return the data URL of a picture; None if there is no room."""
        if len(data) > self.room:
            self.left_out += 1
            return None
        self.room -= len(data)
        return data_url(data, kind)


def data_url(data: bytes, kind: str = "jpeg") -> str:
    """Return the data URL of a picture."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
