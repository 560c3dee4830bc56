"""The printable alphabet in which byte-level BPE writes its 256 bytes."""


def _alphabet() -> dict[str, int]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + i): byte for i, byte in enumerate(extra)}


BYTES = _alphabet()
"""Character -> the byte it stands for."""
