"""One small adapter for each peer; a library is imported only in the process that times it."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.peers.base import Peer
from benchmarks.peers.blas import Sgemm
from benchmarks.peers.by_paddle import Paddle
from benchmarks.peers.by_runtime import Ncnn, OnnxRuntime, OpenVino
from benchmarks.peers.by_torch import Compiled, Dense, GridSample, Torchvision
from benchmarks.peers.ours import Ours

__all__ = ["PEERS", "Peer", "choose"]

#: In the order of the tables.
PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        *(Ours, Dense, Sgemm),
        *(GridSample, Compiled, Torchvision, Paddle),
        *(OnnxRuntime, OpenVino, Ncnn),
    )
}


def choose(
    names: Iterable[str] | None, *, compiled: bool = False
) -> tuple[list[str], dict[str, str]]:
    """Return the peers that take part, and why the others do not.

    Parameters
    ----------
    names : iterable of str, optional
        The ones to take, beside pydeform and the dense convolution. Without it, every one that is
        installed, except those that only come on request.
    compiled : bool
        Whether torch.compile was asked for.

    Raises
    ------
    ValueError
        If a name is unknown; the message lists the known ones.
    """
    asked = {Compiled.name} if compiled else set()
    if names is None:
        asked |= {name for name, peer in PEERS.items() if not peer.on_request}
    else:
        asked |= {Ours.name, Dense.name, *names}
    if unknown := sorted(asked - set(PEERS)):
        raise ValueError(f"peers: expected some of {', '.join(PEERS)}; got {', '.join(unknown)}")
    taken, left = [], {}
    for name, peer in PEERS.items():
        if name not in asked:
            left[name] = "not asked for"
        elif missing := peer.missing():
            left[name] = f"not installed: {missing}"
        else:
            taken.append(name)
    return taken, left
