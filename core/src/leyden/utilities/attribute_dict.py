"""AttributeDict: a dict whose keys can be used as attributes."""

from __future__ import annotations

from typing import Any


class AttributeDict(dict[str, Any]):
    """A dict in which ``d.lr`` means ``d["lr"]``, for reading, setting and deleting."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"There is no attribute {name!r}; there are: {', '.join(map(str, self)) or 'none'}."
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __repr__(self) -> str:
        keys = [f'"{key}":' for key in self]
        width = max(map(len, keys), default=0)
        return "\n".join(f"{key:{width}} {value}" for key, value in zip(keys, self.values(), strict=True))
