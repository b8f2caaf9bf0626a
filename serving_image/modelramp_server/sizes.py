"""Sizes in bytes as Kubernetes writes them: 2Gi, 500M, 1.5Gi, or a plain number."""

import re

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS.update({"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40})
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([kMGT]|[KMGT]i)?")


def parse(value: object) -> object:
    """Bytes of a quantity; what is no text is returned as it is.

    Raises:
        ValueError: the text is no quantity.
    """
    if not isinstance(value, str):
        return value
    match = _QUANTITY.fullmatch(value.strip())
    if match is None:
        raise ValueError("a size is a number of bytes, or a number with Ki, Mi, Gi, Ti, k, M, G or T, such as 2Gi")
    return round(float(match[1]) * _UNITS[match[2] or ""])


def shown(size: int) -> str:
    """For people: 512 B, 1.5 GiB."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:.0f} {unit}"


def quantity(size: int) -> str:
    """As one would set it: 67108864 is 64Mi."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)
